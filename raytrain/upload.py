"""A local folder that grows, kept up to date on an object store, where no file can be appended
to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from raytrain import storage

SECONDS, SHARE = 10.0, 0.01
"""Between two copies at least; of all time, what copying may take, as whole files are sent."""


class Upload:
    """Copies the files of a folder that have changed below a URI.

    What is copied in between is what the caller waits for: there is no thread.
    """

    def __init__(self, folder: str, uri: str, now: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._uri, self._now = Path(folder), uri, now
        self._copied: dict[Path, tuple[int, int]] = {}
        self._due = now() + SECONDS

    def due(self) -> bool:
        """Return whether it is time for a copy."""
        return self._now() >= self._due

    def copy(self) -> None:
        """Copy what has changed; symbolic links are left out."""
        began = self._now()
        for file in sorted(self._folder.rglob("*")):
            if file.is_symlink() or not file.is_file():
                continue
            facts = file.stat()
            state = facts.st_size, facts.st_mtime_ns
            if self._copied.get(file) != state:
                parts = file.relative_to(self._folder).parts
                storage.write_bytes(storage.join(self._uri, *parts), file.read_bytes())
                self._copied[file] = state
        ended = self._now()
        self._due = ended + max(SECONDS, (ended - began) / SHARE)
