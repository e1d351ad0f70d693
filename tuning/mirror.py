"""A study's SQLite file on an object store: its driver works on a copy on its own disk, and writes
that there whole after each event."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TypeVar

from raytrain import storage
from tuning.lease import Lease, Note, held

WAITS = (1, 4, 16)
"""Seconds before an object store is asked again."""
T = TypeVar("T")


@contextmanager
def taken_up(
    folder: str, name: str, stale: float
) -> Iterator[tuple[Path, Callable[[], AbstractContextManager[None]]]]:
    """Hold the lease of a folder for the length of the block; give the copy of its file of a name,
    if there is one, and a block at whose end the copy is written back."""
    kept, note = storage.join(folder, name), storage.join(folder, "lease.json")
    lease = Lease(
        folder,
        lambda: _patiently(lambda: _read(note)),
        lambda new: _patiently(lambda: _write(note, new)),
    )
    with tempfile.TemporaryDirectory(prefix="raytrain-study-") as scratch, held(lease, stale):
        file = Path(scratch, name)
        if storage.exists(kept):
            file.write_bytes(storage.read_bytes(kept))

        @contextmanager
        def event() -> Iterator[None]:
            lease.beat()
            yield
            content = _content(file)
            _patiently(lambda: storage.write_bytes(kept, content))

        yield file, event


def _content(file: Path) -> bytes:
    """Return an open SQLite file as it is between two transactions."""
    copy = file.with_suffix(".copy")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy.read_bytes()


def _patiently(call: Callable[[], T]) -> T:
    """Return what a call to an object store returns, tried again while it fails; together less
    time than until a lease is stale."""
    for seconds in WAITS:
        try:
            return call()
        except OSError:
            time.sleep(seconds)
    return call()


def _read(uri: str) -> Note | None:
    try:
        note: Note = storage.read_json(uri)
    except FileNotFoundError:
        return None
    return note


def _write(uri: str, note: Note | None) -> None:
    if note is None:
        storage.remove(uri)
    else:
        storage.write_json(uri, note)
