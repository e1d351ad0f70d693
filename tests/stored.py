"""Write a dataset's files directly from arrays, for tests and benchmarks of what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raytrain import storage
from raytrain.data.store import schema, shard, tables
from raytrain.data.store.schema import Array, BucketCount, Column, Manifest, Part


@dataclass
class Content:
    """The rows of one bucket; `arrays` has the raw bytes of each column's arrays,
    one entry a row."""

    arrays: Mapping[str, Mapping[str, Sequence[bytes]]]
    captions: Sequence[str]
    splits: Sequence[str]
    paths: Sequence[str]
    locations: Sequence[str] = ()
    repeats: Sequence[int] = ()
    weights: Sequence[float] = ()
    sizes: tuple[int, int] = (64, 64)
    """Original height and width."""
    ids: list[bytes] = field(default_factory=list)


LATENTS = Column(
    of="image", version={}, arrays={"latents": Array(dtype="float16", shape=(8,), cell=8)}
)
MASK = Column(of="image", version={}, arrays={"mask": Array(dtype="uint8", shape=(), cell=8)})


def caption_column(**arrays: tuple[str, tuple[int, ...]]) -> Column:
    """Return a column made of captions, with these arrays: dtype and shape."""
    found = {
        name: Array.model_validate({"dtype": dtype, "shape": shape})
        for name, (dtype, shape) in arrays.items()
    }
    return Column(of="caption", version={}, arrays=found)


def write(
    dataset: str, buckets: Mapping[str, Content], columns: Mapping[str, Column], **facts: Any
) -> Manifest:
    """Write shards, rows and manifest; `facts` are further fields of the manifest.

    The empty caption is all zeros.
    """
    shards: dict[str, list[str]] = {name: [] for name in columns}
    parts, counts = [], {}
    rows_schema = schema.rows_schema(columns)
    for name, content in buckets.items():
        count = len(content.captions)
        ids = content.ids or [
            hashlib.sha256(f"{name}/{number}".encode()).digest() for number in range(count)
        ]
        places: dict[str, list[list[dict[str, int]]]] = {}
        for column, arrays in content.arrays.items():
            folder = column if columns[column].of == "caption" else f"{column}/bucket={name}"
            keys = [hashlib.sha256(column.encode() + identity).digest() for identity in ids]
            shards[column].append(shard.write_shard(dataset, folder, keys, arrays, 64))
            place = {"shard": len(shards[column]) - 1, "crop_top": 0, "crop_left": 0}
            places[column] = [[place | {"row": row}] for row in range(count)]
        rows = pa.table({
            "row_key": pa.array(ids, tables.KEY), "id": pa.array(ids, tables.KEY),
            "split": list(content.splits), "path": list(content.paths),
            "location": list(content.locations or content.paths),
            "captions": [[caption] for caption in content.captions],
            "original_height": [content.sizes[0]] * count,
            "original_width": [content.sizes[1]] * count,
            "repeats": list(content.repeats or [1] * count),
            "weight": list(content.weights or [1.0] * count), "regularization": [False] * count,
            "scores": [[]] * count, **{column: pa.array(found, schema.PLACES) for column,
            found in places.items()},
        })  # fmt: skip
        order = np.argsort([identity.hex() for identity in ids])
        path = f"rows/bucket={name}/rows.parquet"
        tables.write(
            storage.join(dataset, path),
            [rows.take(order).select(rows_schema.names).cast(rows_schema)],
            rows_schema,
        )
        parts.append(Part(path=path, bucket=name, rows=count))
        train = [
            repeat
            for repeat, split in zip(content.repeats or [1] * count, content.splits, strict=True)
            if split == "train"
        ]
        counts[name] = BucketCount(
            train=len(train), held_out=count - len(train), entries=sum(train)
        )
    manifest = Manifest(
        **{"fingerprint": "f00d", "family": "sd15", **facts},
        columns={name: _with_empty(dataset, name, column) for name, column in columns.items()},
        buckets=counts,
        parts=tuple(parts),
        shards={name: tuple(paths) for name, paths in shards.items()},
    )
    storage.write_json(storage.join(dataset, schema.MANIFEST), manifest.model_dump(mode="json"))
    return manifest


def _with_empty(dataset: str, name: str, column: Column) -> Column:
    if column.of == "image":
        return column
    zeros = {array: bytes(one.bytes_in("")) for array, one in column.arrays.items()}
    shard.write_empty(dataset, name, bytes(32), zeros, column.arrays)
    return column.model_copy(update={"empty": shard.empty_path(name, bytes(32))})
