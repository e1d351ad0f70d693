"""LoRA whose denoiser holds one picture at a time: a second one takes more memory than any machine has.

Reached by its dotted path, also from Ray's workers, where a test cannot patch anything.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from raytrain.families import Family
from raytrain.methods import lora
from raytrain.methods.lora import facts, load_state, public_name, state

__all__ = ["Config", "facts", "load_state", "prepare", "public_name", "state"]


class Config(lora.Config):
    """`[method]` with `name = "tests.train.greedy"`."""

    name: Literal["tests.train.greedy"] = "tests.train.greedy"  # type: ignore[assignment]


def prepare(denoiser: nn.Module, family: Family, config: Config, seed: int) -> None:
    """Inject adapters, and an allocation that cannot be met."""
    lora.prepare(denoiser, family, config, seed)

    def allocate(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if len(inputs[0]) > 1 and torch.is_grad_enabled():
            torch.empty(2**46)

    denoiser.register_forward_pre_hook(allocate)
