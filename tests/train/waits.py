"""An optimizer that waits in its third step until Ray Train's worker has been told that a node
will be lost, and for the run's next look at that; elsewhere it is AdamW."""

from __future__ import annotations

import time
from typing import Any

from torch.optim import AdamW

from raytrain.startup import in_ray
from raytrain.train.hooks.preemption import EVERY


class Waits(AdamW):
    """Waits once, in a new run alone."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._until, self._steps = time.monotonic() + 60 * EVERY.number + 1, 0
        self._new = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._new = False
        super().load_state_dict(state_dict)

    def step(self, *arguments: Any, **settings: Any) -> Any:
        self._steps += 1
        while self._new and in_ray() and self._steps == 3 and not self._told():
            time.sleep(0.1)
        return super().step(*arguments, **settings)

    def _told(self) -> bool:
        from ray.train.v2._internal.execution.context import get_train_context

        told = get_train_context().preemption_context.preemption_info is not None
        return told and time.monotonic() > self._until
