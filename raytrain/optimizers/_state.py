"""An optimizer's state as named tensors, which a checkpoint keeps and any engine puts back bit for
bit.

    <weight>|<state>            exp_avg, step, ... of a weight
    |group.<n>|<key>            what a parameter group holds in addition to what it was built with
                                (Prodigy's d)

A Python number is a tensor without dimensions of float64, int64 or bool; a tensor that looks so
has `[]` after its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from raytrain.errors import UserError

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
TENSOR = "[]"
GROUP = "|group."


def tensors(optimizer: Optimizer, named: Mapping[str, Parameter]) -> Iterator[tuple[str, Tensor]]:
    """Yield the whole state; UserError where it holds something other than tensors and numbers."""
    for name, weight in named.items():
        for key, value in optimizer.state.get(weight, {}).items():
            yield _encoded(f"{name}|{key}", value)
    yield from group_tensors(optimizer)


def group_tensors(optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Yield what parameter groups hold that they were not built with;
    the learning rate is set before every step."""
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key not in ("params", "lr") and not _same(value, optimizer.defaults.get(key)):
                yield _encoded(f"{GROUP}{number}|{key}", value)


def load(
    optimizer: Optimizer, named: Mapping[str, Parameter], saved: Mapping[str, Tensor]
) -> None:
    """Put a state back."""
    for name, tensor in saved.items():
        owner, key, value = decoded(name, tensor)
        if owner.startswith(GROUP):
            load_group(optimizer, owner, key, value)
        else:
            optimizer.state[named[owner]][key] = _placed(optimizer, named[owner], key, value)


def load_group(optimizer: Optimizer, owner: str, key: str, value: Tensor | float) -> None:
    """Put a parameter group's value back."""
    group = optimizer.param_groups[int(owner.removeprefix(GROUP))]
    group[key] = (
        value.to(group["params"][0].device, copy=True) if isinstance(value, Tensor) else value
    )


def decoded(name: str, tensor: Tensor) -> tuple[str, str, Tensor | float]:
    """Return whose state it is, its key, and the tensor or Python number that was kept."""
    owner, key = name.rsplit("|", 1)
    if key.endswith(TENSOR):
        return owner, key.removesuffix(TENSOR), tensor
    return owner, key, tensor.item() if _looks_like_a_number(tensor) else tensor


def _encoded(name: str, value: Any) -> tuple[str, Tensor]:
    if isinstance(value, Tensor):
        return name + (TENSOR if _looks_like_a_number(value) else ""), value
    if type(value) not in NUMBERS:
        raise UserError(
            "An optimizer's state must be tensors and numbers to be kept in a checkpoint, got "
            f"{type(value).__name__} for {name!r}; a run could not resume from it. Use another "
            "optimizer, or options that need no such state."
        )
    return name, torch.tensor(value, dtype=NUMBERS[type(value)])


def _looks_like_a_number(tensor: Tensor) -> bool:
    return tensor.dim() == 0 and tensor.dtype in NUMBERS.values()


def _same(value: Any, built: Any) -> bool:
    if isinstance(value, Tensor) or isinstance(built, Tensor):
        return value is built
    return type(value) is type(built) and bool(value == built)


def _placed(
    optimizer: Optimizer, weight: Parameter, key: str, value: Tensor | float
) -> Tensor | float:
    """Return a weight's saved value as the optimizer itself would keep it."""
    if not isinstance(value, Tensor):
        return value
    if key == "step":
        there = optimizer.defaults.get("fused") or optimizer.defaults.get("capturable")
        return value.to(weight.device if there else "cpu", copy=True)
    if value.shape != weight.shape:  # scales of an 8-bit state, rows and columns of a factored one
        return value.to(weight.device, copy=True)
    # The fused kernel walks through weight and state side by side without a look at their strides:
    # a state in another order than a channels_last weight would be wrong in silence. A paged state
    # must be in memory that can page.
    pages = getattr(optimizer, "get_state_buffer", None)
    kept: Tensor = (
        pages(weight, dtype=value.dtype) if pages else torch.empty_like(weight, dtype=value.dtype)
    )
    with torch.no_grad():
        return kept.copy_(value)
