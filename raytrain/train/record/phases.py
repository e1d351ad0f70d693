"""What the first worker of a launch does, and did: how often, for how long, and the most memory
that it had held by the end.

<output>/phases.json   {"doing": "checkpoint", "done": [{"name": "step", "count": 500, ...}, ...]}
<output>/phases-before.json   the same of what the same workers trained before, in a rehearsal
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from raytrain import storage
from raytrain.peak import peak

FILE, BEFORE = "phases.json", "phases-before.json"
STEP = "step"
START = "load"


@dataclass
class Phase:
    """All turns of one kind of work."""

    name: str
    count: int = 0
    seconds: float = 0.0
    host_mb: float = 0.0
    device_mb: float = 0.0


class Phases:
    """Follows the work; written down when something is done for the first time, and at the end."""

    def __init__(self, output: str) -> None:
        self._uri = storage.join(output, FILE)
        self._done: dict[str, Phase] = {}
        self._doing = ""
        self._since = time.monotonic()
        self.begin(START)

    def begin(self, doing: str) -> None:
        """Say what is done next; steps count as one kind of work."""
        name = STEP if doing.startswith(f"{STEP} ") else doing
        if name == self._doing:
            self._done[name].count += 1
            return
        self._end()
        self._doing = name
        first = name not in self._done
        self._done.setdefault(name, Phase(name)).count += 1
        if first:
            self._write()

    def close(self) -> None:
        """End what is done, and write all down."""
        self._end()
        self._write()

    def _end(self) -> None:
        now = time.monotonic()
        if self._doing:
            phase = self._done[self._doing]
            phase.seconds += now - self._since
            phase.host_mb, phase.device_mb = peak()
        self._since = now

    def _write(self) -> None:
        done = [asdict(phase) for phase in self._done.values()]
        storage.write_json(self._uri, {"doing": self._doing, "done": done})


def read(output: str, file: str = FILE) -> tuple[str, list[Phase]]:
    """Return what the last launch in a folder was doing, and what it did, in that order."""
    uri = storage.join(output, file)
    found: dict[str, Any] = (
        storage.read_json(uri) if storage.exists(uri) else {"doing": START, "done": []}
    )
    return found["doing"], [Phase(**phase) for phase in found["done"]]
