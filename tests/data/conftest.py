"""A private Ray for the session, tiny model folders, and drawn source folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.config.file import parse
from tests.conftest import workers_here


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from raytrain.families import sd15

    folder = str(tmp_path_factory.mktemp("sd15"))
    sd15.tiny(folder)
    return folder


def draw(
    path: Path, seed: int, size: tuple[int, int] = (64, 64), caption: str | None = None
) -> None:
    """Write one image of smooth noise, a pure function of its seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")


SIZES = ((64, 64), (96, 56), (56, 96))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve captioned images of three shapes."""
    folder = tmp_path / "images"
    for number in range(12):
        draw(folder / f"{number:02}.png", number, SIZES[number % 3], f"image {number}")
    return folder


@pytest.fixture
def make_config(tmp_path: Path, model: str) -> Callable[..., Config]:
    """Return a config for 64-pixel buckets; keyword arguments go into `[data]`."""

    def make(**data: Any) -> Config:
        settings = {
            "source": str(tmp_path / "images"),
            "format": "auto" if "subsets" in data else "folder",
            "buckets": {"resolution": 64, "step": 16},
            **data,
        }
        settings["encode"] = {"batch": 4, "group_rows": 4, **data.get("encode", {})}
        return parse({"output": str(tmp_path / "run"), "model": {"path": model}, "data": settings})

    return make


@pytest.fixture
def here() -> Iterator[None]:
    with workers_here():
        yield
