"""sd15, whose encoders begin together and note when they work,
so that a benchmark can tell the time in which all actors did."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raytrain.config import ModelConfig
from raytrain.families import sd15
from raytrain.families.sd15 import *  # noqa: F403 - sd15 but for its encoders

TIMES, WORKERS = "times", "workers"


def load(model: ModelConfig, part: str, dtype: torch.dtype) -> Any:
    """Load a part on the CPU; a VAE knows where its times go."""
    loaded = sd15.load(model, part, dtype)
    if part == "vae":
        loaded.times = Path(model.path) / TIMES / f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"
        loaded.workers = int((Path(model.path) / WORKERS).read_text())
    return loaded


def encode_image(vae: Any, pixels: Tensor) -> Tensor:
    """Encode images and write a line: how many, when it began and ended.

    The first waits until every actor has some.
    """
    vae.times.touch()
    while len(list(vae.times.parent.iterdir())) < vae.workers:
        time.sleep(0.05)
    began = time.time()
    stored = sd15.encode_image(vae, pixels)
    with vae.times.open("a") as file:
        file.write(json.dumps([len(pixels), began, time.time()]) + "\n")
    return stored


def link(model: Path, folder: Path, workers: int) -> Path:
    """Make a model folder that shares a model's parts and has room for the times of so many
    actors."""
    (folder / TIMES).mkdir(parents=True)
    (folder / WORKERS).write_text(str(workers))
    for part in model.iterdir():
        (folder / part.name).symlink_to(part)
    return folder


def rate(model: Path) -> float:
    """Return the images per second of the time in which all actors worked,
    a batch at its border counted in part."""
    actors = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in (model / TIMES).iterdir()
    ]
    begin = max(batches[0][1] for batches in actors)
    end = min(batches[-1][2] for batches in actors)
    done: float = sum(_inside(actors, begin, end))
    return done / (end - begin)


def _inside(
    actors: list[list[tuple[int, float, float]]], begin: float, end: float
) -> Iterator[float]:
    for size, began, ended in (batch for batches in actors for batch in batches):
        yield size * max(0.0, min(ended, end) - max(began, begin)) / (ended - began)
