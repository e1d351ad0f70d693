"""How fast a run trains, and how much of the time its steps wait for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TypeVar

Made = TypeVar("Made")


class Pace:
    """Counts since it was last taken."""

    def __init__(self) -> None:
        self.images = 0
        """Trained on, by all workers."""
        self._waited, self._since = 0.0, 0.0

    def waiting(self, batches: Iterator[Made]) -> Iterator[Made]:
        """Yield batches, and time how long each was waited for."""
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def take(self, minutes: float) -> dict[str, float]:
        """Return the metrics, and begin anew; `minutes` is the clock of training, without hooks.

        `images_per_second` is of all workers, `data_stall_ratio` the share of the time in which
        this worker waited for a batch. Nothing where no step was taken.
        """
        seconds = 60 * (minutes - self._since)
        images, waited = self.images, self._waited
        if not images or seconds <= 0:
            return {}
        self.images, self._waited, self._since = 0, 0.0, minutes
        return {"images_per_second": images / seconds, "data_stall_ratio": waited / seconds}
