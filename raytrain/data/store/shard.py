"""Write a shard: arrays under their content addresses, in the layout that
`raytrain.data.loading.shard_reader` reads without decoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.store.schema import Array

_PLAIN: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "data_page_size": 2**30,  # one page a row group: `shard_reader` finds its values
}


def write_shard(
    dataset: str,
    folder: str,
    keys: Sequence[bytes],
    columns: Mapping[str, Sequence[bytes]],
    group_rows: int,
) -> str:
    """Write arrays as one parquet file named by its keys; return its path in the dataset.

    `folder` is that of a column, or of a column and a bucket; `columns` holds each row's raw
    arrays, equally long in a column.
    """
    path = f"{folder}/{hashlib.sha256(b''.join(keys)).hexdigest()}.parquet"
    write_file(storage.join(dataset, path), keys, columns, group_rows, {})
    return path


class ShardWriter:
    """Collects the arrays of one column; writes a shard whenever it is full,
    and one with the rest at the end."""

    def __init__(self, dataset: str, folder: str, group_rows: int, full: int) -> None:
        self.dataset, self.folder, self.group_rows, self.full = dataset, folder, group_rows, full
        self.rows = self.bytes = 0
        self.keys: list[bytes] = []
        self.columns: dict[str, list[bytes]] = {}

    def add(self, key: bytes, arrays: Mapping[str, bytes]) -> None:
        """Take one row: its content address and the raw array of each column."""
        self.keys.append(key)
        for name, content in arrays.items():
            self.columns.setdefault(name, []).append(content)
            self.bytes += len(content)
        if self.bytes >= self.full:
            self._write()

    def close(self) -> int:
        """Write what is left; return the rows of all shards."""
        if self.keys:
            self._write()
        return self.rows

    def _write(self) -> None:
        write_shard(self.dataset, self.folder, self.keys, self.columns, self.group_rows)
        self.rows += len(self.keys)
        self.keys, self.columns, self.bytes = [], {}, 0


def write_empty(
    dataset: str, column: str, key: bytes, row: Mapping[str, bytes], arrays: Mapping[str, Array]
) -> None:
    """Write the empty caption of a column as a shard of its own,
    with the arrays' types and shapes as metadata."""
    metadata = {
        "arrays": json.dumps(
            {name: array.model_dump(mode="json") for name, array in arrays.items()}
        )
    }
    uri = storage.join(dataset, empty_path(column, key))
    write_file(uri, [key], {name: [value] for name, value in row.items()}, 1, metadata)


def empty_path(column: str, key: bytes) -> str:
    """Return the path in the dataset of the shard that holds a column's empty caption alone."""
    return f"{column}/empty-{key.hex()[:32]}.parquet"


def read_arrays(dataset: str, column: str, key: bytes) -> dict[str, Array] | None:
    """Return what a caption column stores, from its empty caption's shard;
    None where there is none that can be read."""
    filesystem, path = storage.resolve(storage.join(dataset, empty_path(column, key)))
    try:
        metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
        return {
            name: Array.model_validate(tree)
            for name, tree in json.loads(metadata[b"arrays"]).items()
        }
    except (pa.ArrowException, OSError, KeyError):
        return None


def write_file(
    uri: str,
    keys: Sequence[bytes],
    columns: Mapping[str, Sequence[bytes]],
    group_rows: int,
    metadata: dict[str, str],
) -> None:
    """Write arrays as one parquet file in the layout of a shard, with `metadata`."""
    widths = {"key": len(keys[0])} | {name: len(values[0]) for name, values in columns.items()}
    fields = [pa.field(name, pa.binary(width), nullable=False) for name, width in widths.items()]
    schema = pa.schema(fields, metadata=metadata)
    with storage.atomic(uri) as temporary, pq.ParquetWriter(temporary, schema, **_PLAIN) as writer:
        for start in range(0, len(keys), group_rows):
            part = slice(start, start + group_rows)
            arrays = [
                pa.array(values[part], field.type)
                for values, field in zip((keys, *columns.values()), fields, strict=True)
            ]
            writer.write_table(
                pa.Table.from_arrays(arrays, schema=schema), row_group_size=group_rows
            )
