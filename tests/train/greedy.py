"""LoRA whose denoiser holds one image at a time: a second one takes more memory than any machine
has.

Reached by its dotted path, also from Ray's workers, where a test cannot patch anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from raytrain.families import Family
from raytrain.methods import lora
from raytrain.methods.lora import artifacts

__all__ = ["Config", "artifacts", "build"]


class Config(lora.Config):
    """`[method]` with `name = "tests.train.greedy"`."""

    name: Literal["tests.train.greedy"] = "tests.train.greedy"  # type: ignore[assignment]


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Inject adapters, and an allocation that cannot be met."""
    parts = lora.build(load, family, config, seed)

    def allocate(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > 1 and torch.is_grad_enabled():
            torch.empty(2**46)

    parts["unet"].register_forward_pre_hook(allocate)
    return parts
