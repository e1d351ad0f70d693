"""Stable Diffusion XL: two CLIP text encoders, pooled text and size conditioning (Podell et al. 2023, arXiv:2307.01952)."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.families import _stable_diffusion
from raytrain.families._kohya import sdxl_module
from raytrain.families._stable_diffusion import LORA_TARGETS, load_denoiser, load_schedule

COMPONENTS = ("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "unet", "scheduler")
DENOISER = "unet"
TEXT_COMPONENTS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
TEXT_COLUMNS = ("text", "pooled")
KOHYA_BASE = "sdxl_base_v1-0"
NEEDS = ("diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",)
_ENCODERS = (("CLIPTextModel", "text_encoder"), ("CLIPTextModelWithProjection", "text_encoder_2"))


class Encoders:
    """VAE and both text encoders on one device."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = _stable_diffusion.load_vae(model, dtype).to(device)
        self.text = [_stable_diffusion.load_text(model, kind, name, dtype) for kind, name in _ENCODERS]
        for _, encoder in self.text:
            encoder.to(device)
        self.max_tokens, self.device = model.max_tokens, device

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in [-1, 1] to moments (B, 2C, H/f, W/f), float32."""
        return _stable_diffusion.moments(self.vae, pixels)

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Map B captions to `text` (B, L, D1 + D2), the penultimate layers side by side, and `pooled` (B, P) of the second.

        L is 77, 152 or 227 for `model.max_tokens`; longer captions are cut. `pooled` is of the first 75 tokens.
        """
        return _encode(self.text, captions, self.max_tokens, self.device)

    def cut(self, captions: Sequence[str]) -> list[bool]:
        """Return for each caption whether it is too long, so that its end is not encoded."""
        tokenizer, _ = self.text[0]
        return [_stable_diffusion.is_cut(tokenizer, caption, self.max_tokens) for caption in captions]


def load_encoders(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
    """Load the VAE and both text encoders."""
    return Encoders(model, device, dtype)


def condition(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `text` (B, L, D), `pooled` (B, P) and `sizes` (B, 6): original h w, crop top left, target h w, in pixels."""
    return {name: columns[name] for name in ("text", "pooled", "sizes")}


def predict(denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: dict[str, Tensor]) -> Tensor:
    """Run the U-Net: noisy latents (B, C, h, w), timesteps (B,) -> prediction (B, C, h, w)."""
    added = {"text_embeds": condition["pooled"], "time_ids": condition["sizes"].to(condition["pooled"].dtype)}
    result: Tensor = denoiser(
        noisy, timesteps, encoder_hidden_states=condition["text"], added_cond_kwargs=added, return_dict=False
    )[0]
    return result


def pipeline(model: ModelConfig, denoiser: nn.Module, scheduler: str, device: torch.device) -> Any:
    """Assemble the sampling pipeline around a denoiser."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    dtype = next(denoiser.parameters()).dtype
    (first, first_encoder), (second, second_encoder) = (
        _stable_diffusion.load_text(model, kind, name, dtype) for kind, name in _ENCODERS
    )
    pipe = StableDiffusionXLPipeline(
        vae=_stable_diffusion.load_vae(model, dtype).to(device),
        text_encoder=first_encoder.to(device),
        text_encoder_2=second_encoder.to(device),
        tokenizer=first,
        tokenizer_2=second,
        unet=denoiser,
        scheduler=_stable_diffusion.load_scheduler(model, scheduler),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    if model.max_tokens == _stable_diffusion.CHUNK:
        return pipe
    encode = functools.partial(
        _encode,
        ((first, pipe.text_encoder), (second, pipe.text_encoder_2)),
        max_tokens=model.max_tokens,
        device=device,
    )
    return _stable_diffusion.LongPrompts(pipe, encode, {"text": "prompt_embeds", "pooled": "pooled_prompt_embeds"})


def _encode(
    text: Sequence[tuple[Any, Any]], captions: Sequence[str], max_tokens: int, device: torch.device
) -> dict[str, Tensor]:
    layers, pooled = [], None
    for tokenizer, encoder in text:
        tokens = _stable_diffusion.tokens(tokenizer, captions, max_tokens)
        chunks = tokens.shape[1]
        with torch.no_grad():
            output = encoder(tokens.flatten(0, 1).to(device), output_hidden_states=True)
        layers.append(_stable_diffusion.join(output.hidden_states[-2], chunks).float())
        pooled = output[0][::chunks].float()
    assert pooled is not None
    return {"text": torch.cat(layers, dim=-1), "pooled": pooled}


def kohya_module(name: str, denoiser: nn.Module) -> str:
    """Map a U-Net module path to kohya's name for it, without the `lora_unet_` prefix."""
    return sdxl_module(name, denoiser)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder with tiny random weights: 8x VAE, two text encoders, three U-Net levels."""
    from raytrain.families import _tiny

    _tiny.write_sdxl(folder, seed)


__all__ = ["COMPONENTS", "DENOISER", "LORA_TARGETS", "TEXT_COLUMNS", "TEXT_COMPONENTS", "Encoders", "condition",
           "kohya_module", "load_denoiser", "load_encoders", "load_schedule", "pipeline", "predict", "tiny"]  # fmt: skip
