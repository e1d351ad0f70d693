"""Families: one base model a file; a family is a module with the members of `Family` below.

Families never import methods or each other, so m families and n methods cost m + n files. What several share lives in
modules whose name starts with an underscore, which the registry does not list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from raytrain import plugins
from raytrain.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raytrain.diffusion.schedule import NoiseSchedule


class Encoders(Protocol):
    """A family's frozen VAE and text encoders, loaded on one device."""

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in [-1, 1] to VAE moments (B, 2C, H/f, W/f): mean and log-variance."""

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Map B captions to the family's text columns, each (B, ...)."""

    def cut(self, captions: Sequence[str]) -> list[bool]:
        """Return for each caption whether it is longer than `model.max_tokens`, so that its end is not encoded."""


class Family(Protocol):
    """What a file in `raytrain/families` offers."""

    COMPONENTS: tuple[str, ...]
    """Sub-folders a model folder must hold, denoiser last but for the scheduler."""
    DENOISER: str
    """The sub-folder of the weights that learn: `unet` or `transformer`."""
    TEXT_COMPONENTS: tuple[str, ...]
    TEXT_COLUMNS: tuple[str, ...]
    LORA_TARGETS: tuple[str, ...]
    KOHYA_BASE: str
    """`ss_base_model_version` of kohya's files."""
    NEEDS: tuple[str, ...]
    """Modules that its functions import, which take seconds: a process that waits for work imports them meanwhile."""

    def load_encoders(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
        """Load the VAE and the text encoders."""

    def load_denoiser(self, model: ModelConfig, dtype: torch.dtype) -> nn.Module:
        """Load the denoiser on the CPU, its linear layers quantized where `model.quantize` asks for it."""

    def load_schedule(self, model: ModelConfig) -> NoiseSchedule:
        """Read the noise schedule, the prediction type and the latent scale from the model folder."""

    def condition(self, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Build the denoiser's conditioning from text columns and the `sizes` column (B, 6).

        `sizes` is original height, width, crop top, left, bucket height, width.
        """

    def predict(self, denoiser: nn.Module, noisy: Tensor, timesteps: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """Run the denoiser: noisy latents (B, C, h, w), timesteps (B,) -> prediction (B, C, h, w)."""

    def pipeline(self, model: ModelConfig, denoiser: nn.Module, scheduler: str, device: torch.device) -> Any:
        """Assemble the diffusers pipeline around this denoiser, for sampling."""

    def kohya_module(self, name: str, denoiser: nn.Module) -> str:
        """Map a denoiser module path to kohya's name for it, without the `lora_unet_` prefix."""

    def tiny(self, folder: str, seed: int = 0) -> None:
        """Write a model folder with tiny random weights, built offline."""


def load(name: str) -> Family:
    """Return the family module `name`."""
    return plugins.load("families", name)
