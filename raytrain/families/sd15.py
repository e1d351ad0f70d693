"""Stable Diffusion 1.x: one CLIP text encoder, a U-Net predicting noise or v
(Rombach et al. 2022, arXiv:2112.10752).

Text is stored at its full length, 77 states for 75 tokens: the U-Net attends to the embeddings of
padding too, so trimming them would train on another conditioning than the pipeline samples with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.families import _stable_diffusion as sd
from raytrain.families._kohya import plain, sd_module
from raytrain.families._stable_diffusion import (
    CONTROL_INPUT,
    HINT_PARTS,
    control_branch,
    encode_image,
    hint,
    latent,
    latents,
    process,
    tokenize,
    too_long,
)  # fmt: skip

PARTS = {"vae": "vae", "text_encoder": "text", "tokenizer": "tokenizer", "unet": "denoiser"}
CONDITION = ("text",)
CAPTION_TOKENS = sd.CAPTION_TOKENS
LORA_TARGETS = {"unet": sd.ATTENTION, "text_encoder": sd.CLIP_ATTENTION}
CONV_TARGETS = {"unet": sd.CONVOLUTIONS}
KOHYA = {"unet": ("lora_unet", sd_module), "text_encoder": ("lora_te", plain)}
EMBEDDINGS = {"text_encoder": "emb_params"}
KOHYA_BASE = "sd_v1"
MODELSPEC = "stable-diffusion-v1"
NEEDS = ("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",)


def load(model: ModelConfig, part: str, dtype: torch.dtype) -> Any:
    """Load a part on the CPU."""
    if part == "vae":
        return sd.load_vae(model, dtype)
    if part == "tokenizer":
        return sd.load_tokenizer(model, part)
    if part == "text_encoder":
        return sd.load_text(model, part, "CLIPTextModel", dtype)
    return sd.load_unet(model, dtype)


def encode_text(
    encoders: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], model: ModelConfig
) -> dict[str, Tensor]:
    """Map ids (n, m, 77) to `text` (n, L, D), L = 77, 152 or 227 for `model.max_tokens`."""
    ids = tokens["tokenizer"]
    states = encoders["text_encoder"](ids.flatten(0, 1))[0]
    return {"text": sd.join(states, ids.shape[1]).float()}


def predict(
    denoiser: nn.Module,
    noisy: Tensor,
    time: Tensor,
    condition: Mapping[str, Tensor],
    model: ModelConfig,
    **extra: Any,
) -> Tensor:
    """Run the U-Net: noisy latents (n, C, h, w), timesteps (n,) -> prediction (n, C, h, w)."""
    result: Tensor = denoiser(
        noisy, time, encoder_hidden_states=condition["text"], return_dict=False, **extra
    )[0]
    return result


def control(
    branch: nn.Module,
    noisy: Tensor,
    time: Tensor,
    condition: Mapping[str, Tensor],
    hint: Tensor,
    scale: float,
) -> dict[str, Any]:
    """Run the ControlNet; returns what `predict` takes."""
    return sd.control_kwargs(branch, noisy, time, condition["text"], hint, scale, None)


def pipeline(
    model: ModelConfig, parts: Mapping[str, Any], scheduler: str, device: torch.device
) -> Any:
    """Assemble the sampling pipeline; with a part `controlnet` the one that takes control
    images."""
    from diffusers.pipelines.controlnet.pipeline_controlnet import (
        StableDiffusionControlNetPipeline,
    )
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )

    kind = StableDiffusionControlNetPipeline if "controlnet" in parts else StableDiffusionPipeline
    pipe = kind(
        **sd.components(PARTS, load, model, parts, device),
        scheduler=sd.scheduler(model, scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    if model.max_tokens == sd.CHUNK:
        return pipe

    def encode(captions: Sequence[str]) -> dict[str, Tensor]:
        ids = tokenize({"tokenizer": pipe.tokenizer}, captions, model)
        with torch.no_grad():
            return encode_text({"text_encoder": pipe.text_encoder}, sd.on(device, ids), model)

    return sd.LongPrompts(pipe, encode, {"text": "prompt_embeds"})


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder with tiny random weights: 8x VAE, 64-dimensional text,
    two U-Net levels."""
    from raytrain.families import _tiny

    _tiny.write_sd15(folder, seed)


__all__ = ["CAPTION_TOKENS", "CONDITION", "CONTROL_INPUT", "CONV_TARGETS", "EMBEDDINGS",
           "HINT_PARTS", "KOHYA", "KOHYA_BASE", "LORA_TARGETS", "MODELSPEC", "NEEDS", "PARTS",
           "control", "control_branch", "encode_image", "encode_text", "hint", "latent",
           "latents", "load", "pipeline", "predict", "process", "tiny", "tokenize",
           "too_long"]  # fmt: skip
