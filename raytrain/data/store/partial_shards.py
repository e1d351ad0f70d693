"""What an encoder has made of a shard that is not full yet, saved every few seconds:
a kill costs seconds, not shards.

    <dataset>/work/<run>/partial_shards/<job>/<store>/<number>.parquet

A partial shard has the layout of a shard, but no snapshot names one. When a worker is killed, the
next attempt at its job starts with the job's partial shards; when a preparation is killed, the
next one first makes shards of all that are left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.store import shard

SECONDS = 2.0
"""A partial shard is saved when this time has passed since the last one, or when a quarter of the
job is new: so an actor that is killed loses a quarter of a shard at most, and small arrays, which
fill a row group faster than a disk can sync it, do not wait for it at every one."""
QUARTERS = 4
_FOLDER = b"folder"
"""The metadata of a partial shard that names the folder of the shard it belongs to."""


class PartialShardWriter:
    """Fills the shards of one store in one job; saves what is not in one yet as partial shards."""

    def __init__(self, shards: shard.ShardWriter, folder: str, job_rows: int) -> None:
        self.shards, self.folder = shards, folder
        self.quarter = -(-job_rows // QUARTERS)
        self.keys: list[bytes] = []
        self.columns: dict[str, list[bytes]] = {}
        self.made: set[bytes] = set()
        """Content addresses that an earlier attempt saved: taken over, they need no encoding."""
        self.saved, self.saved_at = 0, time.monotonic()
        for table in _read(folder):
            self.saved += 1
            for key, arrays in _rows(table):
                self.made.add(key)
                shards.add(key, arrays)

    def add(self, key: bytes, arrays: Mapping[str, bytes]) -> None:
        """Take one row: its content address and the raw array of each column."""
        self.keys.append(key)
        for name, content in arrays.items():
            self.columns.setdefault(name, []).append(content)
        late = (
            len(self.keys) >= self.shards.group_rows
            and time.monotonic() - self.saved_at >= SECONDS
        )
        if late or len(self.keys) >= self.quarter:
            self._save()
        self.shards.add(key, arrays)

    def close(self) -> int:
        """Write the last shard and delete the partial shards; return the rows of all shards."""
        rows = self.shards.close()
        storage.remove(self.folder)
        return rows

    def _save(self) -> None:
        uri = storage.join(self.folder, f"{self.saved:06d}.parquet")
        shard.write_file(
            uri, self.keys, self.columns, len(self.keys), {"folder": self.shards.folder}
        )
        self.keys, self.columns = [], {}
        self.saved, self.saved_at = self.saved + 1, time.monotonic()


def left(dataset: str, own: str) -> list[str]:
    """Return the folders of partial shards of all runs except the one whose work folder is
    `own`."""
    work = storage.join(dataset, "work")
    runs = [
        storage.join(work, run, "partial_shards")
        for run in storage.names(work)
        if storage.join(work, run) != own
    ]
    jobs = [storage.join(run, job) for run in runs for job in storage.names(run)]
    return [storage.join(job, store) for job in jobs for store in storage.names(job)]


def gather(dataset: str, left: Sequence[str], stored: str, group_rows: int) -> int:
    """Make shards of the partial shards in the folders `left`, without what is stored already;
    return the number of arrays.

    `stored` is the table of all arrays in shards. Nothing is deleted: a run that is still running
    loses nothing.
    """
    known = pq.read_table(storage.fetch(stored), columns=["key"], partitioning=None)["key"]
    rows = 0
    for partial in left:
        writer = None
        for table in _read(partial):
            folder = table.schema.metadata[_FOLDER].decode()
            writer = writer or shard.ShardWriter(
                dataset, folder, group_rows, full=2**62
            )  # a job fits into one shard
            for key, arrays in _rows(table.filter(pc.invert(pc.is_in(table["key"], known)))):
                writer.add(key, arrays)
        rows += writer.close() if writer else 0
    return rows


def _read(folder: str) -> Iterator[pa.Table]:
    """Yield the partial shards in a folder; one that cannot be read or is gone is left out,
    what it held is encoded again."""
    for name in storage.names(folder):
        if name.endswith(".parquet"):
            filesystem, path = storage.resolve(storage.join(folder, name))
            try:
                yield pq.read_table(path, filesystem=filesystem, partitioning=None)
            except (pa.ArrowException, OSError):
                continue


def _rows(table: pa.Table) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for row in table.to_pylist():
        yield row.pop("key"), row
