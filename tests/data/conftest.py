"""A private Ray for the session, tiny model folders, and drawn source folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.configfile import parse


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    from cluster.connect import connect

    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raytrain.families import sd15

    folder = str(tmp_path_factory.mktemp("sd15"))
    sd15.tiny(folder)
    return folder


def draw(path: Path, seed: int, size: tuple[int, int] = (64, 64), caption: str | None = None) -> None:
    """Write one picture of smooth noise, a pure function of its seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


SIZES = ((64, 64), (96, 56), (56, 96))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve captioned pictures of three shapes."""
    folder = tmp_path / "pictures"
    for number in range(12):
        draw(folder / f"{number:02}.png", number, SIZES[number % 3], f"picture {number}")
    return folder


@pytest.fixture
def make_config(tmp_path: Path, model: str) -> Callable[..., Config]:
    """Return a config for 64-pixel buckets; keyword arguments go into `[data]`."""

    def make(**data: Any) -> Config:
        settings = {
            "source": str(tmp_path / "pictures"),
            "format": "folder",
            "buckets": {"resolution": 64, "step": 16},
            **data,
        }
        settings["encode"] = {"batch": 4, "group_rows": 4, **data.get("encode", {})}
        return parse({"output": str(tmp_path / "run"), "model": {"path": model}, "data": settings})

    return make


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the workers in this process, where starting one costs nothing."""
    from raytrain.data import flow

    def stream(
        jobs: Sequence[dict[str, Any]], worker: Any, settings: dict[str, Any], options: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        stage = worker(**settings)
        for job in jobs:
            block = stage(pa.table({"job": [json.dumps(job)]}))
            yield from (json.loads(report) for report in block["report"].to_pylist())

    monkeypatch.setattr(flow, "_stream", stream)
    monkeypatch.setattr(flow, "call", lambda function, **settings: function(**settings))
    monkeypatch.setattr(flow, "check_room", lambda encode: None)
