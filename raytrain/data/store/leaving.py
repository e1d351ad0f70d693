"""How a clean-up and concurrent preparations of one dataset do not harm each other,
without locks.

A clean-up announces the files it will delete, then reads the snapshots, then deletes what none of
them names and no preparation has rewritten. A preparation writes its snapshot, then reads the
announcements, then sees whether its files are there. So one of the two always sees the other: the
clean-up keeps what the snapshot names, or the preparation makes again what is leaving. An
announcement that a killed clean-up left only costs encoding some arrays again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence

from raytrain import storage
from raytrain.data.store.schema import Manifest
from raytrain.storage import File

FOLDER = "leaving"


@contextlib.contextmanager
def announced(dataset: str, files: Sequence[File]) -> Iterator[None]:
    """Announce that files of the dataset (paths relative to it) are being deleted,
    for the length of a `with` block."""
    uri = storage.join(dataset, FOLDER, f"{uuid.uuid4().hex}.json")
    storage.write_json(uri, {file.path: file.modified for file in files})
    yield  # after a failure the announcement stays: what it names may be gone
    storage.remove(uri)


def leaving(dataset: str) -> set[str]:
    """Return the files that a clean-up is deleting; one rewritten since it was announced is
    not among them."""
    announcements: dict[str, float] = {}
    for name in storage.names(storage.join(dataset, FOLDER)):
        if name.endswith(".json"):
            with contextlib.suppress(FileNotFoundError):  # its clean-up has just ended
                announcements |= storage.read_json(storage.join(dataset, FOLDER, name))
    if not announcements:
        return set()
    return {
        file.path
        for file in storage.files(dataset)
        if announcements.get(file.path) == file.modified
    }


def lost(dataset: str, manifest: Manifest) -> set[str]:
    """Return the files of a snapshot that are gone or leaving;
    call it once the snapshot is written."""
    going = leaving(dataset)
    there = {file.path for file in storage.files(dataset)}
    return named(manifest) - (there - going)


def named(manifest: Manifest) -> set[str]:
    """Return every file that a snapshot needs, relative to the dataset."""
    shards = {path for paths in manifest.shards.values() for path in paths}
    empty = {column.empty for column in manifest.columns.values()}
    return (
        shards | {part.path for part in manifest.parts} | (empty | {manifest.rejected_path}) - {""}
    )
