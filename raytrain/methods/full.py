"""Full fine-tuning: every weight of the denoiser learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from raytrain.config import MethodConfig
from raytrain.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.families import Family


class Config(MethodConfig):
    """`[method]` with `name = "full"`."""

    name: Literal["full"] = "full"


def prepare(denoiser: nn.Module, family: Family, config: Config, seed: int) -> None:
    """Make every weight trainable, in fp32."""
    denoiser.float().requires_grad_(True)


def state(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return all weights by their diffusers names."""
    return {name: weight.detach() for name, weight in denoiser.named_parameters()}


def load_state(denoiser: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy weights into the denoiser; UserError when they do not match it exactly."""
    own = dict(denoiser.named_parameters())
    if own.keys() != tensors.keys() or any(own[k].shape != v.shape for k, v in tensors.items()):
        raise UserError(
            "The checkpoint's weights do not fit this base model: names or shapes differ. "
            "Use the config kept beside the checkpoint."
        )
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)


def public_name(name: str) -> str:
    """Turn a parameter's name in the prepared denoiser into its name in checkpoints: the same."""
    return name


def facts(config: Config) -> dict[str, Any]:
    """Return what an export writes into its header."""
    return {}
