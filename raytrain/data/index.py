"""What a dataset folder already holds: the index columns of every shard, without reading any moments."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.schema import INDEX_COLUMNS, SIZE_COLUMNS, bucket_name, content_key

COLUMNS = (*INDEX_COLUMNS, *SIZE_COLUMNS)


class Row(NamedTuple):
    """One picture of the dataset, as its shard describes it: the index columns, then the sizes in pixels."""

    id: str
    split: str
    path: str
    caption: str
    latent_key: str
    text_key: str
    original_height: int
    original_width: int
    crop_top: int
    crop_left: int
    height: int
    width: int

    @property
    def bucket(self) -> str:
        """The name of the row's bucket, `WxH`."""
        return bucket_name(self.width, self.height)


class Place(NamedTuple):
    """Where a stored row lies: shard path relative to the dataset, row number in it."""

    shard: str
    row: int


class Stored(NamedTuple):
    """One shard on storage."""

    bytes: int
    rows: list[Row]


def read(dataset: str) -> dict[str, Stored]:
    """Return every readable shard of a dataset folder by its relative path, listed in the manifest or not.

    An unreadable file is left out: what it held is encoded again.
    """
    paths = [
        f"{folder}/{name}"
        for folder in storage.names(dataset)
        if folder.startswith("bucket=")
        for name in storage.names(storage.join(dataset, folder))
        if name.endswith(".parquet")
    ]
    with ThreadPoolExecutor(16) as pool:
        shards = pool.map(lambda path: _read_shard(storage.join(dataset, path)), paths)
    return {path: shard for path, shard in zip(paths, shards, strict=True) if shard is not None}


def fingerprint(rows: Iterable[Row]) -> str:
    """Return the hash over every row's latent key, text key and split, whatever their order."""
    return content_key(sorted((row.latent_key, row.text_key, row.split) for row in rows))


def _read_shard(uri: str) -> Stored | None:
    filesystem, path = storage.resolve(uri)
    try:
        table = pq.read_table(path, columns=list(COLUMNS), filesystem=filesystem, partitioning=None)
        rows = [Row(*values) for values in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]
        return Stored(filesystem.get_file_info(path).size, rows)
    except (pa.ArrowException, OSError, KeyError):
        return None
