"""Wall time of training, by which hooks with `every = "N minutes"` go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts from its making on; hooks are not counted, so that one slower than its period does
    not stop training."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._stopped: float | None = None

    def minutes(self) -> float:
        """Return the minutes so far."""
        now = time.monotonic() if self._stopped is None else self._stopped
        return (now - self._began) / 60

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens in the block."""
        self._stopped = time.monotonic()
        try:
            yield
        finally:
            self._began += time.monotonic() - self._stopped
            self._stopped = None
