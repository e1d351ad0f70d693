"""Edges as control images: white on black, by Canny's detector
(1986, "A Computational Approach to Edge Detection")."""

from __future__ import annotations

import numpy as np
from PIL import Image

from raytrain.config.data import ControlConfig
from raytrain.data.controls import Maker
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = False
IGNORES = ("path",)


class Options(Table):
    """Thresholds on the gradient of 8-bit values: above `high` begins an edge,
    above `low` continues one."""

    low: float = 100.0
    high: float = 200.0


def version(config: ControlConfig) -> str:
    """Return the hash over the thresholds."""
    return content_key("canny", Options(**config.options).model_dump())


def load(config: ControlConfig) -> Maker:
    """Return the edge detector."""
    return _Canny(Options(**config.options))


class _Canny:
    def __init__(self, options: Options) -> None:
        self.options = options

    def make(self, image: Image.Image, *, file: Image.Image | None) -> Image.Image:
        import cv2

        edges = cv2.Canny(np.asarray(image.convert("RGB")), self.options.low, self.options.high)
        return Image.fromarray(np.asarray(edges, dtype=np.uint8)).convert("RGB")
