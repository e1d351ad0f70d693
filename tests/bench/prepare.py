"""An encoding worker (read, decode, resize, VAE, text, write) against the VAE alone on pixels made before.

The worker is what each actor of `raytrain prepare` runs; starting Ray and its actors is not in the figure.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raytrain import families
from raytrain.configfile import parse
from raytrain.data import index, plan
from raytrain.data.encode import ShardEncoder
from raytrain.data.prepare import prepare
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder

BATCH = 8
SIZES = [[128, 128], [160, 96], [96, 160]]


def setup(folder: Path, quick: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two functions, each measuring pictures per second on one thread."""
    draw_folder(folder / "pictures", 12 if quick else 160, style="neon", seed=0)
    tables = {
        "output": str(folder / "run"),
        "model": {"path": str(SD15)},
        "data": {
            "source": str(folder / "pictures"),
            "buckets": {"resolution": 128, "step": 32, "sizes": SIZES},
            "encode": {"batch": BATCH},
        },
    }
    from cluster.connect import connect

    config = parse(tables)
    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        prepare(config)
    rows = [row for content in index.read(config.dataset).values() for row in content.rows]
    blocks = [plan.to_block(job) for job in plan.jobs([plan.Work(row, None, None) for row in rows], 1024, 64, 1)]
    numbers = itertools.count()
    encoder = families.load("sd15").load_encoders(config.model, torch.device("cpu"), torch.float32)
    pixels = [_pixels(folder / "pictures", batch) for batch in _batches(rows)]

    def ours() -> float:
        fresh = parse({**tables, "output": str(folder / f"run-{next(numbers)}")})
        worker = ShardEncoder(fresh, "", 4)
        began = time.perf_counter()
        for block in blocks:
            report = worker(block)["report"][0].as_py()
            assert '"error":""' in report, report
        return len(rows) / (time.perf_counter() - began)

    def vae() -> float:
        began = time.perf_counter()
        for batch in pixels:
            encoder.encode_pictures(batch)
        return len(rows) / (time.perf_counter() - began)

    return ours, vae


def _batches(rows: list[index.Row]) -> list[list[index.Row]]:
    found = []
    for _, group in itertools.groupby(sorted(rows, key=lambda row: row.bucket), key=lambda row: row.bucket):
        members = list(group)
        found += [members[i : i + BATCH] for i in range(0, len(members), BATCH)]
    return found


def _pixels(source: Path, rows: list[index.Row]) -> torch.Tensor:
    arrays = [np.asarray(Image.open(source / row.path).convert("RGB").resize((row.width, row.height))) for row in rows]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1
