"""Write what a dataset consists of: shards, the empty caption's row, the rejected pictures, the manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.index import COLUMNS, Row, Stored
from raytrain.data.scan import Rejected
from raytrain.data.schema import EMPTY, INDEX_COLUMNS, MANIFEST, REJECTED, Manifest, Shard

_PLAIN: dict[str, Any] = {
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "data_page_size": 2**30,  # one page a row group: `raytrain.data.read` maps its values
}


def write_shard(dataset: str, rows: Sequence[Row], columns: Mapping[str, Sequence[bytes]], group_rows: int) -> str:
    """Write the rows of one bucket as one parquet file named by its content; return its path in the dataset.

    `columns` holds each row's raw float16 arrays: `moments` and the family's text columns.
    """
    table = pa.Table.from_batches(
        [_batch(rows, columns, slice(start, start + group_rows)) for start in range(0, len(rows), group_rows)]
    )
    path = f"bucket={rows[0].bucket}/{_hash(table)}.parquet"
    with storage.atomic(storage.join(dataset, path)) as temporary:
        pq.write_table(table, temporary, row_group_size=group_rows, **_PLAIN)
    return path


def empty_row(columns: Mapping[str, bytes], shapes: Mapping[str, Sequence[int]], text_key: str) -> bytes:
    """Return the content of the empty caption's file: one row, with its shapes and content address as metadata."""
    table = pa.table({name: pa.array([value], pa.binary()) for name, value in columns.items()})
    notes = {"text_key": text_key, "shapes": json.dumps({name: list(shape) for name, shape in shapes.items()})}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(notes), sink, **_PLAIN)
    return sink.getvalue()


def empty_shapes(content: bytes, text_key: str) -> dict[str, tuple[int, ...]] | None:
    """Return the text columns' shapes from the empty caption's file; None when another encoder made it."""
    try:
        notes = pq.read_schema(io.BytesIO(content)).metadata or {}
    except pa.ArrowException:
        return None
    if notes.get(b"text_key") != text_key.encode():
        return None
    return {name: tuple(shape) for name, shape in json.loads(notes[b"shapes"]).items()}


def read_empty(dataset: str) -> bytes:
    """Return the content of the empty caption's file, nothing where there is none."""
    uri = storage.join(dataset, EMPTY)
    return storage.read_bytes(uri) if storage.exists(uri) else b""


def read_rejected(dataset: str) -> list[Rejected]:
    """Return what the last preparation rejected."""
    uri = storage.join(dataset, REJECTED)
    if not storage.exists(uri):
        return []
    return [Rejected(**row) for row in pq.read_table(io.BytesIO(storage.read_bytes(uri))).to_pylist()]


def finish(dataset: str, manifest: Manifest, empty: bytes, rejected: Sequence[Rejected]) -> None:
    """Make the dataset valid: the small files, then the manifest; only then delete shards that no row lives in."""
    schema = pa.schema([(name, pa.string()) for name in Rejected.model_fields])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([item.model_dump() for item in rejected], schema=schema), sink)
    storage.write_bytes(storage.join(dataset, REJECTED), sink.getvalue())
    if empty != read_empty(dataset):
        storage.write_bytes(storage.join(dataset, EMPTY), empty)
    storage.write_json(storage.join(dataset, MANIFEST), manifest.model_dump(mode="json"))
    _sweep(dataset, {shard.path for shard in manifest.shards})


def shards(stored: Mapping[str, Stored], kept: Mapping[str, set[int]]) -> tuple[Shard, ...]:
    """Describe the stored shards that hold at least one live row."""
    return tuple(
        Shard(
            path=path,
            bucket=content.rows[0].bucket,
            rows=len(content.rows),
            bytes=content.bytes,
            dropped=tuple(number for number in range(len(content.rows)) if number not in kept[path]),
        )
        for path, content in sorted(stored.items())
        if kept[path]
    )


def _batch(rows: Sequence[Row], columns: Mapping[str, Sequence[bytes]], part: slice) -> pa.RecordBatch:
    index = list(zip(*rows[part], strict=True))
    arrays = {
        name: pa.array(values, pa.string() if name in INDEX_COLUMNS else pa.int32())
        for name, values in zip(COLUMNS, index, strict=True)
    }
    arrays |= {name: pa.array(values[part], pa.binary(len(values[0]))) for name, values in columns.items()}
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    return pa.record_batch(list(arrays.values()), schema=pa.schema(fields))


def _hash(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in table.column_names:
        for chunk in table[name].chunks:
            for buffer in chunk.buffers():
                if buffer is not None:
                    digest.update(buffer)
    return digest.hexdigest()


def _sweep(dataset: str, live: set[str]) -> None:
    """Delete shards that are not live, and what killed writers left behind."""
    for folder in storage.names(dataset):
        if folder.startswith("bucket="):
            names = storage.names(storage.join(dataset, folder))
            dead = [name for name in names if f"{folder}/{name}" not in live]
            for name in dead:
                storage.remove(storage.join(dataset, folder, name))
            if len(dead) == len(names):
                storage.remove(storage.join(dataset, folder))
