"""All that a dataset holds, read from its files with pyarrow alone:
what two preparations are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raytrain import storage
from raytrain.config import Config
from raytrain.data.store.schema import Manifest


def manifest(config: Config) -> Manifest:
    """Return the newest snapshot."""
    return Manifest.model_validate(
        storage.read_json(storage.join(config.dataset, "manifest.json"))
    )


def contents(config: Config) -> dict[tuple[str, str], dict[str, Any]]:
    """Return everything of the newest snapshot: (path, bucket) -> the row,
    its places replaced by the arrays' bytes.

    Each version of an array is (columns, crop top, crop left).
    """
    newest, dataset = manifest(config), Path(config.dataset)
    shards = {
        (store, number): pq.read_table(dataset / path, partitioning=None).to_pylist()
        for store, paths in newest.shards.items()
        for number, path in enumerate(paths)
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for part in newest.parts:
        for row in pq.read_table(dataset / part.path, partitioning=None).to_pylist():
            for store in newest.columns:
                row[store] = [
                    (
                        shards[store, place["shard"]][place["row"]],
                        place["crop_top"],
                        place["crop_left"],
                    )
                    for place in row[store]
                ]
            found[row["path"], part.bucket] = row
    assert len(found) == sum(part.rows for part in newest.parts)
    for name, column in newest.columns.items():
        if column.empty:
            [found["", f"empty caption of {name}"]] = pq.read_table(
                dataset / column.empty, partitioning=None
            ).to_pylist()
    return found
