"""sd15, whose encoders begin together and note when they work, so that a benchmark can tell the time in which all actors did."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from raytrain.config import ModelConfig
from raytrain.families import sd15
from raytrain.families.sd15 import *  # noqa: F403 - a family is a module; this one is sd15 but for its encoders

TIMES, WORKERS = "times", "workers"


class Encoders(sd15.Encoders):
    """Encoders that write a line for every batch of pictures: its size, when it began and when it ended."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(model, device, dtype)
        self.folder = Path(model.path) / TIMES
        self.times = self.folder / f"{os.getpid()}-{uuid.uuid4().hex}.jsonl"
        self.workers = int((Path(model.path) / WORKERS).read_text())

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) in [-1, 1] to moments, and take the time; the first waits until every actor has some."""
        self.times.touch()
        while len(list(self.folder.iterdir())) < self.workers:
            time.sleep(0.05)
        began = time.time()
        moments = super().encode_pictures(pixels)
        with self.times.open("a") as file:
            file.write(json.dumps([len(pixels), began, time.time()]) + "\n")
        return moments


def load_encoders(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
    """Load the VAE and the text encoder."""
    return Encoders(model, device, dtype)


def link(model: Path, folder: Path, workers: int) -> Path:
    """Make a model folder that shares a model's parts and has room for the times of so many actors."""
    (folder / TIMES).mkdir(parents=True)
    (folder / WORKERS).write_text(str(workers))
    for part in model.iterdir():
        (folder / part.name).symlink_to(part)
    return folder


def rate(model: Path) -> float:
    """Return the pictures per second of the time in which all actors worked, a batch at its border counted in part."""
    actors = [[json.loads(line) for line in file.read_text().splitlines()] for file in (model / TIMES).iterdir()]
    begin = max(batches[0][1] for batches in actors)
    end = min(batches[-1][2] for batches in actors)
    done: float = sum(_inside(actors, begin, end))
    return done / (end - begin)


def _inside(actors: list[list[tuple[int, float, float]]], begin: float, end: float) -> Iterator[float]:
    for size, began, ended in (batch for batches in actors for batch in batches):
        yield size * max(0.0, min(ended, end) - max(began, begin)) / (ended - began)
