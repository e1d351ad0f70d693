"""What the U-Net families of Stable Diffusion share: loading through diffusers, VAE moments, the noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.config import ModelConfig
from raytrain.diffusion.schedule import NoiseSchedule
from raytrain.errors import UserError
from raytrain.families import _weights

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

SCHEDULERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def load_vae(model: ModelConfig, dtype: torch.dtype) -> Any:
    """Load the VAE, the model's own or `model.vae`, in evaluation mode."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    root, name = _weights.vae_source(model)
    vae = AutoencoderKL.from_pretrained(root, subfolder=name or None, torch_dtype=dtype, variant=_variant(model))
    return vae.eval().requires_grad_(False)


def load_text(model: ModelConfig, kind: str, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Load a CLIP tokenizer and text encoder; `kind` is the transformers class, `name` the encoder's sub-folder."""
    import transformers

    root = _weights.folder(model)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(root, subfolder=name.replace("text_encoder", "tokenizer"))
    encoder = getattr(transformers, kind).from_pretrained(
        root, subfolder=name, dtype=dtype, variant=_variant(model), use_safetensors=True
    )
    return tokenizer, encoder.eval().requires_grad_(False)


def load_denoiser(model: ModelConfig, dtype: torch.dtype) -> nn.Module:
    """Load the U-Net on the CPU, in evaluation mode."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    root = _weights.folder(model)
    unet: nn.Module = UNet2DConditionModel.from_pretrained(
        root, subfolder="unet", torch_dtype=dtype, variant=_variant(model), use_safetensors=True
    )
    return unet.eval()


def load_schedule(model: ModelConfig) -> NoiseSchedule:
    """Read the noise schedule from the scheduler's config through diffusers' own DDPM implementation."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler = DDPMScheduler.from_pretrained(_weights.folder(model), subfolder="scheduler")
    prediction = scheduler.config.prediction_type
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(
            f"model {model.path!r} predicts {prediction!r}; only epsilon and v_prediction are trained. "
            "Choose another base model."
        )
    root, name = _weights.vae_source(model)
    vae = _weights.read_config(root / name, "config.json")
    return NoiseSchedule(
        scheduler.alphas_cumprod.float(), prediction, vae.get("scaling_factor", 0.18215), vae.get("shift_factor") or 0.0
    )


def load_scheduler(model: ModelConfig, name: str) -> Any:
    """Load a sampler by its config name, with the model's own schedule."""
    import diffusers

    kind, options = SCHEDULERS[name]
    return getattr(diffusers, kind).from_pretrained(_weights.folder(model), subfolder="scheduler", **options)


def moments(vae: Any, pixels: Tensor) -> Tensor:
    """Encode pixels (B, 3, H, W) in [-1, 1] to float32 moments (B, 2C, H/f, W/f)."""
    with torch.no_grad():
        distribution = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
    result: Tensor = distribution.parameters
    return result.float()


def _variant(model: ModelConfig) -> str | None:
    return model.variant
