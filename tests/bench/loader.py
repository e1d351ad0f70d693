"""Reading a prepared dataset against pyarrow reading the same row groups of the same files,
all with a warm page cache.

`dataset_read`: every row once, in batches in the order of image hashes, which is a random one on
disk; one thread. `loader`: an epoch in the batch sampler's order as batches of tensors, two
threads ahead. pyarrow maps the files and reads them straight on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader, prefetch
from raytrain.data.loading.read import Dataset
from raytrain.data.store import schema
from tests import stored

TEXT = (77, 768)
BUCKETS = ((512, 512), (640, 384), (384, 640))
BATCH = 32
Sides = tuple[Callable[[], float], Callable[[], float]]


def setup(folder: Path, quick: bool) -> Sides:
    """Return two functions, each measuring MB per second over one epoch of SD1.5-sized rows in
    three buckets."""
    manifest = write(folder, _rows(quick))

    def ours() -> float:
        dataset = Dataset(str(folder))
        began, count = time.perf_counter(), 0
        loader = Loader(dataset, BatchSampler(dataset.counts(), batch=BATCH, seed=0, epochs=1))
        for step in prefetch(loader.step, range(loader.batch_sampler.total_steps)):
            count += step.batch.columns["latents"].nbytes + step.batch.columns["text"].nbytes
        return count / 1e6 / (time.perf_counter() - began)

    return ours, lambda: _pyarrow(folder, manifest)


def setup_read(folder: Path, quick: bool) -> Sides:
    """Return two functions, each measuring MB per second over the same rows,
    without batch sampler and threads."""
    manifest = write(folder, _rows(quick))

    def ours() -> float:
        dataset = Dataset(str(folder))
        began, count = time.perf_counter(), 0
        for bucket, entries in dataset.counts().items():
            for start in range(0, entries, BATCH):
                rows = dataset.rows(bucket, np.arange(start, min(start + BATCH, entries)))
                count += rows.columns["latents"].nbytes + rows.columns["text"].nbytes
        return count / 1e6 / (time.perf_counter() - began)

    return ours, lambda: _pyarrow(folder, manifest)


def _pyarrow(folder: Path, manifest: schema.Manifest) -> float:
    began, count = time.perf_counter(), 0
    for name in ("latents", "text"):
        for path in manifest.shards[name]:
            file = pq.ParquetFile(folder / path, memory_map=True)
            for group in range(file.metadata.num_row_groups):
                count += file.read_row_group(group, columns=[name]).column(name).nbytes
    return count / 1e6 / (time.perf_counter() - began)


def _rows(quick: bool) -> int:
    return 32 if quick else 1280


def write(folder: Path, rows: int) -> schema.Manifest:
    """Write a dataset of random latents and text, with the project's own writer and default row
    groups."""
    random = np.random.default_rng(0)
    buckets = {}
    for width, height in BUCKETS:
        sizes = {"latents": 8 * (height // 8) * (width // 8), "text": TEXT[0] * TEXT[1]}
        arrays = {
            name: {name: [random.bytes(2 * size) for _ in range(rows)]}
            for name, size in sizes.items()
        }
        words = [""] * rows
        buckets[schema.bucket_name(width, height)] = stored.Content(
            arrays, words, ["train"] * rows, words
        )
    columns = {"latents": stored.LATENTS, "text": stored.caption_column(text=("float16", TEXT))}
    return stored.write(str(folder), buckets, columns)
