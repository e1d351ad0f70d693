"""Checks around the first step of every launch: what must change did, what must not did not,
and all workers agree."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raytrain.errors import UserError
from raytrain.model import public_name
from raytrain.train.engines.engine import Engine


class SelfTestFailed(UserError):  # noqa: N818
    """A step did not do what a step must do; nothing that it made was saved."""


class SelfTest:
    """Remembers the weights as they were before a step."""

    def __init__(self, model: nn.Module, engine: Engine, world_size: int) -> None:
        self._model, self._engine, self._world_size = model, engine, world_size
        self._before = self._checksums()

    def check(self) -> None:
        """Raise SelfTestFailed, on every worker alike, unless the step was sound; a collective."""
        after = self._checksums()
        learning = self._engine.local().keys()
        changed = {name for name, value in after.items() if value != self._before[name]}
        problems = []
        if moved := sorted(changed - learning):
            problems.append(f"{len(moved)} frozen weights changed, such as {moved[0]}")
        if not changed & learning:
            problems.append(
                f"none of the {len(learning)} trainable weights changed: the gradients are zero, "
                "or a step is smaller than the weights' type resolves (train.learning_rate, "
                "train.param_dtype, train.rounding)"
            )
        own = (problems, None if self._engine.sharded else [after[name] for name in learning])
        everyone: list[Any] = [own]
        if self._world_size > 1:
            everyone = [None] * self._world_size
            dist.all_gather_object(everyone, own)
        if apart := [
            str(rank) for rank, (_, sums) in enumerate(everyone) if sums != everyone[0][1]
        ]:
            problems.append(
                f"the weights of workers {', '.join(apart)} differ from worker 0's: gradients "
                "were not shared"
            )
        if found := sorted(
            {problem for problems_of, _ in everyone for problem in problems_of} | set(problems)
        ):
            raise SelfTestFailed(
                f"The first step was not sound: {'; '.join(found)}. Training stopped before "
                "anything was saved."
            )

    def _checksums(self) -> dict[str, int]:
        return {
            public_name(name): checksum(getattr(weight, "ds_tensor", weight))
            for name, weight in self._model.named_parameters()
        }


def checksum(values: Tensor) -> int:
    """Return the sum of a tensor's bits, taken as integers: any change of one value changes it."""
    flat = values.detach().contiguous().flatten()
    return int(
        flat.view(torch.uint8 if flat.element_size() % 2 else torch.int16).sum(dtype=torch.int64)
    )
