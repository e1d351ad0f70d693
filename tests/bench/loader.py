"""The ledger reader against pyarrow reading the same row groups of the same files, both with a warm page cache."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data import schema
from raytrain.data.index import Row
from raytrain.data.ledger import Ledger
from raytrain.data.loader import Loader, prefetch
from raytrain.data.read import Dataset
from raytrain.data.write import write_shard

TEXT = (77, 768)
BUCKETS = ((512, 512), (640, 384), (384, 640))
BATCH = 32


def setup(folder: Path, quick: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two functions, each measuring MB per second over one epoch of SD1.5-sized rows in three buckets."""
    rows = 32 if quick else 1280
    manifest = write(folder, rows)
    columns = [schema.MOMENTS, "text", *schema.SIZE_COLUMNS]

    def ours() -> float:
        began = time.perf_counter()
        dataset = Dataset(str(folder))
        loader = Loader(dataset, Ledger(dataset.counts(), batch=BATCH, seed=0, epochs=1))
        count = 0
        for step in prefetch(loader.step, range(loader.ledger.total_steps)):
            count += step.batch.moments.nbytes + step.batch.columns["text"].nbytes
        return count / 1e6 / (time.perf_counter() - began)

    def reference() -> float:
        began, count = time.perf_counter(), 0
        for shard in manifest.shards:
            file = pq.ParquetFile(folder / shard.path, memory_map=True)
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=columns)
                count += table.column(schema.MOMENTS).nbytes + table.column("text").nbytes
        return count / 1e6 / (time.perf_counter() - began)

    return ours, reference


def write(folder: Path, rows: int) -> schema.Manifest:
    """Write a dataset of random moments and text, with the project's own writer and default row groups."""
    random = np.random.default_rng(0)
    shards = []
    for width, height in BUCKETS:
        bucket = schema.bucket_name(width, height)
        size = 8 * (height // 8) * (width // 8)
        shape = {schema.MOMENTS: size, "text": TEXT[0] * TEXT[1]}
        columns = {name: [random.bytes(2 * n) for _ in range(rows)] for name, n in shape.items()}
        index = [
            Row(**{**dict.fromkeys(Row._fields, 0), **dict.fromkeys(schema.INDEX_COLUMNS, ""), "split": "train",
                   "id": f"{bucket}-{random.integers(2**60):x}", "width": width, "height": height})
            for _ in range(rows)
        ]  # fmt: skip
        path = write_shard(str(folder), index, columns, group_rows=64)
        shards.append(schema.Shard(path=path, bucket=bucket, rows=rows, bytes=(folder / path).stat().st_size))
    manifest = schema.Manifest(
        family="sd15", vae_hash="", text_hash="", fingerprint="", latent_channels=4, latent_factor=8,
        text_shapes={"text": TEXT}, buckets={s.bucket: schema.BucketCount(train=rows) for s in shards},
        shards=tuple(shards),
    )  # fmt: skip
    storage.write_json(str(folder / schema.MANIFEST), manifest.model_dump(mode="json"))
    return manifest
