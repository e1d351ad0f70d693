"""Write a dataset's files directly from arrays, for tests and benchmarks of what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raytrain import storage
from raytrain.data import schema, shard, tables
from raytrain.data.schema import BucketCount, Manifest, Part


@dataclass
class Content:
    """The rows of one bucket; `arrays` has the raw bytes of each store's columns, one entry a row."""

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


def write(
    dataset: str, buckets: Mapping[str, Content], text_shapes: Mapping[str, Sequence[int]], **facts: Any
) -> Manifest:
    """Write shards, rows and manifest; `facts` are further fields of the manifest."""
    shards: dict[str, list[str]] = {store: [] for store in schema.STORES}
    parts, counts = [], {}
    for name, content in buckets.items():
        count = len(content.captions)
        ids = content.ids or [hashlib.sha256(f"{name}/{number}".encode()).digest() for number in range(count)]
        places: dict[str, list[list[dict[str, int]]]] = {store: [[] for _ in range(count)] for store in schema.STORES}
        for store, columns in content.arrays.items():
            folder = store if store == schema.TEXT else f"{store}/bucket={name}"
            keys = [hashlib.sha256(store.encode() + identity).digest() for identity in ids]
            shards[store].append(shard.write_shard(dataset, folder, keys, columns, 64))
            place = {"shard": len(shards[store]) - 1, "crop_top": 0, "crop_left": 0}
            places[store] = [[place | {"row": row}] for row in range(count)]
        rows = pa.table({
            "row_key": pa.array(ids, tables.KEY), "id": pa.array(ids, tables.KEY), "split": list(content.splits),
            "path": list(content.paths), "location": list(content.locations or content.paths),
            "captions": [[caption] for caption in content.captions],
            "original_height": [content.sizes[0]] * count, "original_width": [content.sizes[1]] * count,
            "repeats": list(content.repeats or [1] * count), "weight": list(content.weights or [1.0] * count),
            "regularisation": [False] * count, "scores": [[]] * count,
            **{store: pa.array(found, schema.PLACES) for store, found in places.items()},
        })  # fmt: skip
        order = np.argsort([identity.hex() for identity in ids])
        path = f"rows/bucket={name}/rows.parquet"
        tables.write(storage.join(dataset, path), [rows.take(order).cast(schema.ROWS)], schema.ROWS)
        parts.append(Part(path=path, bucket=name, rows=count))
        train = [
            repeat
            for repeat, split in zip(content.repeats or [1] * count, content.splits, strict=True)
            if split == "train"
        ]
        counts[name] = BucketCount(train=len(train), held_out=count - len(train), entries=sum(train))
    empty = bytes(32)
    zeros = {name: bytes(2 * int(np.prod(shape))) for name, shape in text_shapes.items()}
    shard.write_empty(dataset, empty, zeros, text_shapes)
    manifest = Manifest(
        **{"vae_hash": "", "text_hash": "", "fingerprint": "f00d", "family": "sd15", **facts},
        text_shapes={name: tuple(shape) for name, shape in text_shapes.items()},
        buckets=counts,
        parts=tuple(parts),
        shards={store: tuple(paths) for store, paths in shards.items()},
        empty_text=shard.empty_path(empty),
    )
    storage.write_json(storage.join(dataset, schema.MANIFEST), manifest.model_dump(mode="json"))
    return manifest
