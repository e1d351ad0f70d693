"""Messages for the user during a run: written by workers into its folder, printed by the
command that waits for it.

<output>/notices/<nanoseconds>-<rank>.txt
"""

from __future__ import annotations

import time

from raytrain import storage

FOLDER = "notices"


def tell(output: str, text: str, rank: int = 0) -> None:
    """Leave a notice."""
    name = f"{time.time_ns():020d}-{rank:05d}.txt"
    storage.write_bytes(storage.join(output, FOLDER, name), text.encode())


class Notices:
    """The notices of a run that are new since the last look."""

    def __init__(self, output: str) -> None:
        self._folder = storage.join(output, FOLDER)
        self._seen = set(storage.names(self._folder))

    def new(self) -> list[str]:
        """Return the texts that came since, oldest first."""
        found = sorted(set(storage.names(self._folder)) - self._seen)
        texts = [
            storage.read_bytes(storage.join(self._folder, name)).decode()
            for name in found
            if "." in name
        ]
        self._seen |= set(found)
        return texts
