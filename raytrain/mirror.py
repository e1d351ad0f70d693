"""Weights on an object store, as a folder of this machine: one copy of each content, whichever
process asks first."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from raytrain import storage
from raytrain.errors import UserError

FOLDER = "RAYTRAIN_CACHE"
"""Variable that names the folder of the copies; default `~/.cache/raytrain`."""


def local(path: str, wanted: Sequence[str] = ("*",)) -> str:
    """Return a path on this machine's disk: of a URI its copy, with the files that patterns of
    names ask for; anything else is returned as it is.

    What changes at the URI is copied anew. Raises UserError where no file is asked for.
    """
    return path if storage.is_local(path) else _copied(path, tuple(wanted))


@functools.cache
def _copied(uri: str, wanted: tuple[str, ...]) -> str:
    files = [
        file
        for file in storage.files(uri)
        if any(fnmatch(file.path, pattern) for pattern in wanted)
    ]
    if not files:
        raise UserError(
            f"{uri!r} must be the folder of a model, but no file of one is there ("
            f"{', '.join(wanted[:3])} ...). Nothing could be loaded; correct the path."
        )
    content = json.dumps([uri.partition("?")[0], *sorted(files)])
    folder = _cache() / "weights" / hashlib.sha256(content.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for file in files:
            if not (target := folder / file.path).exists():
                with storage.atomic(str(target)) as temporary:
                    storage.download(storage.join(uri, file.path), temporary)
    return str(folder)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(os.environ.get(FOLDER) or os.path.join(home, "raytrain"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process fills the folder. A file system without locks lets two copy the
    same, which harms neither."""
    with open(f"{folder}.lock", "w", encoding="ascii") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
