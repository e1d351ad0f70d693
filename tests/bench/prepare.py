"""What preparing images costs beyond its VAE: one encoding worker, and two of them on two cores.

`prepare`: a worker's jobs (read, decode, Lanczos, VAE, write) against the VAE alone on pixels made
before. The VAE computes on one thread on both sides, as a stand-in for an accelerator; the
worker's two decoding threads use what other cores there are, so this needs two. Captions are
encoded too, but in jobs of their own, which are not in the figure.

`prepare_two_actors`: `raytrain prepare` on a real local Ray of two CPUs with two actors of one CPU
against the same with one. Each VAE computes on one thread; decoding shares the same two cores.
Counted are the images of the time in which all actors work, so starting Ray and its actors is not
in the figure, and what happens between jobs is.

JPEGs of 768 pixels become 256 pixels for one worker, which the toy world's VAE encodes in about
0.1 s on one thread, and 384 pixels for two, nearer to the 512 of SD 1.5; the smaller the images,
the more decoding and Ray count.
"""

from __future__ import annotations

import atexit
import itertools
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.buckets import fits
from raytrain.data.image.render import pixels
from raytrain.data.image.transform import transforms
from raytrain.data.pipeline.executor import Job, Report
from raytrain.data.prepare import prepare
from raytrain.toy import SD15
from raytrain.toy.draw import draw
from tests.bench import timed_family
from tests.conftest import Here
from tests.encoders import Encoders

BATCH = 8
SHAPES = ((768, 768), (960, 576), (576, 960))
Sides = tuple[Callable[[], float], Callable[[], float]]


def setup(folder: Path, quick: bool) -> Sides:
    """Return two functions, each measuring images per second: the worker and the VAE alone."""
    count = 12 if quick else 96
    config = _config(folder, count, 64 if quick else 256)
    numbers = itertools.count()
    encoders = Encoders(config.model, torch.device("cpu"), torch.float32)
    ready = list(_ready(config))

    def ours() -> float:
        seconds = 0.0

        class Timed(Here):
            """Runs the workers in this process, and times those that make arrays."""

            def stream(
                self, jobs: Sequence[Job], worker: Any, settings: dict[str, Any], pool: Any,
                memory: float = 0.0,
            ) -> Generator[Report, None, None]:  # fmt: skip
                nonlocal seconds
                stage = worker(**settings)
                for job in jobs:
                    began = time.perf_counter()
                    block = stage(pa.table({"job": [json.dumps(job)]}))
                    if job.get("kind") == "arrays":
                        seconds += time.perf_counter() - began
                    yield from (json.loads(report) for report in block["report"].to_pylist())

        report = prepare(_fresh(config, folder / f"run-{next(numbers)}"), executor=Timed())
        assert report.made["latents"] == count, report
        return count / seconds

    def vae() -> float:
        began = time.perf_counter()
        for batch in ready:
            encoders.encode_images(batch)
        return count / (time.perf_counter() - began)

    return ours, vae


def setup_two(folder: Path, quick: bool) -> Sides:
    """Return two functions, each measuring images per second: of two actors and of one."""
    from cluster.connect import connect

    count = 48 if quick else 72
    config = _config(folder, count, 64 if quick else 384)
    numbers = itertools.count()
    connection = connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False)
    connection.__enter__()
    atexit.register(connection.__exit__, None, None, None)

    def rate(workers: int) -> float:
        times = folder / f"times-{next(numbers)}"
        model = {
            "family": timed_family.__name__,
            "path": str(timed_family.link(SD15, times, workers)),
        }
        report = prepare(
            _fresh(
                config,
                folder / f"{times.name}-run",
                model=model,
                workers=workers,
                shard_rows=2 * BATCH,
            )
        )
        assert report.made["latents"] == count, report
        return timed_family.rate(times)

    return lambda: rate(2), lambda: rate(1)


def _config(folder: Path, count: int, side: int) -> Config:
    """Draw the images and return the settings that prepare them."""
    source = folder / "images"
    source.mkdir(parents=True)
    for number in range(count):
        image, caption = draw(number, "neon", (256, 256))
        large = np.asarray(image.resize(SHAPES[number % 3], Image.Resampling.BICUBIC), np.int16)
        grain = np.random.default_rng(number).normal(0, 6, large.shape)
        photo = Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))
        photo.save(source / f"{number:04d}.jpg", quality=90)
        (source / f"{number:04d}.txt").write_text(caption)
    return parse(
        {
            "output": str(folder / "run"),
            "model": {"path": str(SD15)},
            "data": {
                "source": str(source),
                "buckets": {"resolution": side, "step": 32},
                "encode": {"batch": BATCH},
            },
        }
    )


def _fresh(
    config: Config, output: Path, model: dict[str, str] | None = None, **encode: Any
) -> Config:
    """Return the same settings for a dataset that does not exist yet."""
    tables = config.values()
    tables["data"]["encode"] |= encode
    return parse(tables | {"output": str(output), "model": model or tables["model"]})


def _ready(config: Config) -> Iterator[torch.Tensor]:
    """Yield batches of pixels, each of one bucket, ready for the VAE."""
    buckets: dict[Any, list[torch.Tensor]] = {}
    for path in sorted(Path(config.data.source).glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        [fit] = fits(*image.size, config.data.buckets)
        [plain] = transforms(
            *image.size, fit, config.data.buckets, config.data.augment, path.name, 0
        )
        array = torch.from_numpy(pixels(image, plain, fit.bucket).copy())
        buckets.setdefault(fit.bucket, []).append(array.permute(2, 0, 1).float() / 127.5 - 1)
    for members in buckets.values():
        yield from (
            torch.stack(members[start : start + BATCH]) for start in range(0, len(members), BATCH)
        )
