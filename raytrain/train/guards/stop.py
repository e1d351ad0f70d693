"""How a run is asked to end in order: by a file in its folder,
which its first worker looks for between steps."""

from __future__ import annotations

import time

from raytrain import storage

NAME = "stop"
SECONDS = 1.0
"""Between two looks: on an object store each costs a request."""


def ask(output: str) -> None:
    """Ask the run in a folder to write a checkpoint and end."""
    storage.write_bytes(storage.join(output, NAME), b"")


def forget(output: str) -> None:
    """Take the request back, as a new launch does with an old one."""
    storage.remove(storage.join(output, NAME))


class Watch:
    """Checks for the request periodically."""

    def __init__(self, output: str) -> None:
        self._uri, self._looked, self._asked = storage.join(output, NAME), time.monotonic(), False

    def asked(self) -> bool:
        """Return whether the run was requested to stop."""
        now = time.monotonic()
        if not self._asked and now - self._looked >= SECONDS:
            self._looked, self._asked = now, storage.exists(self._uri)
        return self._asked
