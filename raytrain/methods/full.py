"""Full fine-tuning: every weight of the denoiser learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from raytrain import families
from raytrain.config import MethodConfig

if TYPE_CHECKING:
    from torch import nn

    from raytrain.families import Family


class Config(MethodConfig):
    """`[method]` with `name = "full"`."""

    name: Literal["full"] = "full"


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the denoiser, every weight trainable, in fp32."""
    name = families.denoiser(family)
    return {name: load(name).float().requires_grad_(True)}
