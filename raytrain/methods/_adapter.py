"""What methods share that put adapters of peft into a frozen part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from raytrain.errors import UserError

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "default"
"""The name under which peft keeps an adapter; it is no part of a public name."""


def targets(part: nn.Module, asked: Sequence[str], own: Sequence[str], where: str) -> list[str]:
    """Return the endings of layer names that get an adapter: those asked for at `where` in the config, else the family's.

    Raises UserError where no layer's name ends so.
    """
    modules = [name for name, _ in part.named_modules()]
    for target in asked:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise UserError(
                f"{where} must name layers of the {type(part).__name__}, got {target!r}, which no layer's name ends with; "
                f"nothing would learn there. The family's own targets are {', '.join(own)}."
            )
    return list(asked or own)


def inject(part: nn.Module, adapters: Any, seed: int) -> nn.Module:
    """Put trainable fp32 adapters of a peft config into a frozen part, in place; `seed` fixes their start."""
    import torch
    from peft import inject_adapter_in_model

    before = {id(weight) for weight in part.parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(adapters, part, ADAPTER)
    for weight in part.parameters():
        weight.requires_grad_(id(weight) not in before)
        if weight.requires_grad:
            weight.data = weight.data.float()
    return part.eval()
