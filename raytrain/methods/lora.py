"""LoRA: low-rank updates of linear layers, W + (alpha / rank) B A (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raytrain import families
from raytrain.config import MethodConfig
from raytrain.methods import _adapter

if TYPE_CHECKING:
    from torch import nn

    from raytrain.families import Family

FREEZES_BASE = True


class Config(MethodConfig):
    """`[method]` with `name = "lora"`."""

    name: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """Scale of the update is alpha / rank; default: rank, a scale of 1."""
    targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Layer name endings; default: the family's attention projections."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """Start of A; B starts at zero, so that step 0 is the base model."""


def build(load: Callable[[str], nn.Module], family: Family, config: Config, seed: int) -> dict[str, nn.Module]:
    """Return the denoiser with trainable fp32 adapters; `seed` fixes A's start."""
    from peft import LoraConfig

    part = families.denoiser(family)
    denoiser = load(part)
    targets = _adapter.targets(denoiser, config.targets, family.LORA_TARGETS[part], "method.targets")
    adapters = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,
        target_modules=targets,
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
    )
    return {part: _adapter.inject(denoiser, adapters, seed)}


def scale(config: Config) -> float:
    """Return alpha / rank, the factor of the update."""
    return (config.alpha or config.rank) / config.rank


def facts(config: Config) -> dict[str, Any]:
    """Return what an export writes into its header."""
    return {"rank": config.rank, "alpha": config.alpha or config.rank}
