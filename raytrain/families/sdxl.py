"""Stable Diffusion XL: two CLIP text encoders, pooled text and size conditioning
(Podell et al. 2023, arXiv:2307.01952)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.families import _stable_diffusion as sd
from raytrain.families._kohya import plain, sdxl_module
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

PARTS = {
    "vae": "vae",
    "text_encoder": "text",
    "tokenizer": "tokenizer",
    "text_encoder_2": "text",
    "tokenizer_2": "tokenizer",
    "unet": "denoiser",
}
CONDITION = ("text", "pooled")
CAPTION_TOKENS = sd.CAPTION_TOKENS
LORA_TARGETS = {
    "unet": sd.ATTENTION,
    "text_encoder": sd.CLIP_ATTENTION,
    "text_encoder_2": sd.CLIP_ATTENTION,
}
CONV_TARGETS = {"unet": sd.CONVOLUTIONS}
KOHYA = {
    "unet": ("lora_unet", sdxl_module),
    "text_encoder": ("lora_te1", plain),
    "text_encoder_2": ("lora_te2", plain),
}
EMBEDDINGS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
UNREAD = {"text_encoder": ("encoder.layers", ".*")}
KOHYA_BASE = "sdxl_base_v1-0"
SIZE_IDS = True
MODELSPEC = "stable-diffusion-xl-v1-base"
NEEDS = ("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",)
_ENCODERS = {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}


def load(model: ModelConfig, part: str, dtype: torch.dtype) -> Any:
    """Load a part on the CPU."""
    if part == "vae":
        return sd.load_vae(model, dtype)
    if part in _ENCODERS:
        return sd.load_text(model, part, _ENCODERS[part], dtype)
    return (
        sd.load_tokenizer(model, part)
        if PARTS[part] == "tokenizer"
        else sd.load_unet(model, dtype)
    )


def encode_text(
    encoders: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], model: ModelConfig
) -> dict[str, Tensor]:
    """Map ids (n, m, 77) of both to `text` (n, L, D1 + D2), the penultimate layers side by side,
    and `pooled` (n, P).

    L is 77, 152 or 227 for `model.max_tokens`. `pooled` is the second encoder's, of the first 75
    tokens.
    """
    layers, pooled = [], None
    for name, encoder in ((name, encoders[name]) for name in _ENCODERS):
        ids = tokens[name.replace("text_encoder", "tokenizer")]
        chunks = ids.shape[1]
        output = encoder(ids.flatten(0, 1), output_hidden_states=True)
        layers.append(sd.join(output.hidden_states[-2], chunks).float())
        pooled = output[0][::chunks].float()
    assert pooled is not None
    return {"text": torch.cat(layers, dim=-1), "pooled": pooled}


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
        noisy,
        time,
        encoder_hidden_states=condition["text"],
        added_cond_kwargs=_added(condition),
        return_dict=False,
        **extra,
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
    return sd.control_kwargs(
        branch, noisy, time, condition["text"], hint, scale, _added(condition)
    )


def pipeline(
    model: ModelConfig, parts: Mapping[str, Any], scheduler: str, device: torch.device
) -> Any:
    """Assemble the sampling pipeline; with a part `controlnet` the one that takes control
    images."""
    from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import (
        StableDiffusionXLControlNetPipeline,
    )
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import (
        StableDiffusionXLPipeline,
    )

    kind = (
        StableDiffusionXLControlNetPipeline if "controlnet" in parts else StableDiffusionXLPipeline
    )
    pipe = kind(
        **sd.components(PARTS, load, model, parts, device),
        scheduler=sd.scheduler(model, scheduler),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    if model.max_tokens == sd.CHUNK:
        return pipe

    def encode(captions: Sequence[str]) -> dict[str, Tensor]:
        ids = tokenize(
            {"tokenizer": pipe.tokenizer, "tokenizer_2": pipe.tokenizer_2}, captions, model
        )
        encoders = {name: getattr(pipe, name) for name in _ENCODERS}
        with torch.no_grad():
            return encode_text(encoders, sd.on(device, ids), model)

    return sd.LongPrompts(
        pipe, encode, {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    )


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder with tiny random weights: 8x VAE, two text encoders,
    three U-Net levels."""
    from raytrain.families import _tiny

    _tiny.write_sdxl(folder, seed)


def _added(condition: Mapping[str, Tensor]) -> dict[str, Tensor]:
    pooled = condition["pooled"]
    return {"text_embeds": pooled, "time_ids": condition["sizes"].to(pooled.dtype)}


__all__ = ["CAPTION_TOKENS", "CONDITION", "CONTROL_INPUT", "CONV_TARGETS", "EMBEDDINGS",
           "HINT_PARTS", "KOHYA", "KOHYA_BASE", "LORA_TARGETS", "MODELSPEC", "NEEDS", "PARTS",
           "SIZE_IDS", "UNREAD", "control", "control_branch", "encode_image", "encode_text",
           "hint", "latent", "latents", "load", "pipeline", "predict", "process", "tiny",
           "tokenize", "too_long"]  # fmt: skip
