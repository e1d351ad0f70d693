"""Stable Diffusion 1.x: one CLIP text encoder, a U-Net predicting noise or v (Rombach et al. 2022, arXiv:2112.10752).

Text is stored at its full length, 77 states for 75 tokens: the U-Net attends to the embeddings of padding too, so trimming them
would train on another conditioning than the pipeline samples with.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.families import _stable_diffusion
from raytrain.families._kohya import sd_module
from raytrain.families._stable_diffusion import LORA_TARGETS, load_denoiser, load_schedule

COMPONENTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
DENOISER = "unet"
TEXT_COMPONENTS = ("tokenizer", "text_encoder")
TEXT_COLUMNS = ("text",)
KOHYA_BASE = "sd_v1"
NEEDS = ("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",)


class Encoders:
    """VAE and CLIP text encoder on one device."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = _stable_diffusion.load_vae(model, dtype).to(device)
        self.tokenizer, self.text_encoder = _stable_diffusion.load_text(model, "CLIPTextModel", "text_encoder", dtype)
        self.text_encoder.to(device)
        self.max_tokens, self.device = model.max_tokens, device

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in [-1, 1] to moments (B, 2C, H/f, W/f), float32."""
        return _stable_diffusion.moments(self.vae, pixels)

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Map B captions to `text` (B, L, D), L = 77, 152 or 227 for `model.max_tokens`; longer captions are cut."""
        return _encode(self.tokenizer, self.text_encoder, captions, self.max_tokens, self.device)

    def cut(self, captions: Sequence[str]) -> list[bool]:
        """Return for each caption whether it is too long, so that its end is not encoded."""
        return [_stable_diffusion.is_cut(self.tokenizer, caption, self.max_tokens) for caption in captions]


def load_encoders(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
    """Load the VAE and the text encoder."""
    return Encoders(model, device, dtype)


def condition(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the cross-attention input `text` (B, L, D)."""
    return {"text": columns["text"]}


def predict(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """Run the U-Net: noisy latents (B, C, h, w), timesteps (B,) -> prediction (B, C, h, w)."""
    result: Tensor = denoiser(noisy, timesteps, encoder_hidden_states=condition["text"], return_dict=False)[0]
    return result


def pipeline(model: ModelConfig, denoiser: nn.Module, scheduler: str, device: torch.device) -> Any:
    """Assemble the sampling pipeline around a denoiser."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    dtype = next(denoiser.parameters()).dtype
    tokenizer, text_encoder = _stable_diffusion.load_text(model, "CLIPTextModel", "text_encoder", dtype)
    pipe = StableDiffusionPipeline(
        vae=_stable_diffusion.load_vae(model, dtype).to(device),
        text_encoder=text_encoder.to(device),
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=_stable_diffusion.load_scheduler(model, scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    if model.max_tokens == _stable_diffusion.CHUNK:
        return pipe
    encode = functools.partial(_encode, tokenizer, text_encoder, max_tokens=model.max_tokens, device=device)
    return _stable_diffusion.LongPrompts(pipe, encode, {"text": "prompt_embeds"})


def _encode(
    tokenizer: Any, encoder: Any, captions: Sequence[str], max_tokens: int, device: torch.device
) -> dict[str, Tensor]:
    tokens = _stable_diffusion.tokens(tokenizer, captions, max_tokens)
    with torch.no_grad():
        states = encoder(tokens.flatten(0, 1).to(device))[0]
    return {"text": _stable_diffusion.join(states, tokens.shape[1]).float()}


def kohya_module(name: str, denoiser: nn.Module) -> str:
    """Map a U-Net module path to kohya's name for it, without the `lora_unet_` prefix."""
    return sd_module(name, denoiser)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder with tiny random weights: 8x VAE, 64-dimensional text, two U-Net levels."""
    from raytrain.families import _tiny

    _tiny.write_sd15(folder, seed)


__all__ = ["COMPONENTS", "DENOISER", "LORA_TARGETS", "TEXT_COLUMNS", "TEXT_COMPONENTS", "Encoders", "condition",
           "kohya_module", "load_denoiser", "load_encoders", "load_schedule", "pipeline", "predict", "tiny"]  # fmt: skip
