"""Images that differ, and a folder with tiny weights for each captioner that has weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytrain import plugins


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Five images of different sizes, modes and content."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 70, 3), dtype=np.uint8)
    return [
        Image.new("RGB", (50, 40), "red"),
        Image.fromarray(noise),
        Image.new("L", (64, 64), 255),
        Image.radial_gradient("L").resize((30, 60)),
        Image.new("RGBA", (33, 33), (0, 0, 255, 128)),
    ]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Return a maker of a captioner's folder, kept for the session."""
    made: dict[str, Path] = {}

    def make(name: str) -> str:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            plugins.load("data.captioners", name).tiny(str(made[name]))
        return str(made[name])

    return make
