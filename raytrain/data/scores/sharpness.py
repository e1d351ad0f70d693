"""Sharpness: the variance of the Laplacian, low for blurred images
(Pech-Pacheco et al. 2000, "Diatom autofocusing").

Measured on luminance of 0..255 with the image's area brought to that of a square of `side` pixels,
so that images of different sizes compare: an enlarged small image is a blurred one. At 512, eight
photographs (of people, animals, things, the moon) score 65 to 1133, blurred with a radius of 2
pixels 2 to 18; a flat image 0. Noise counts as sharpness.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from pydantic import Field

from raytrain.config.data import ScoreConfig
from raytrain.data.scores import Scorer
from raytrain.data.store.schema import content_key
from raytrain.table import Table

IGNORES = ("path",)


class Options(Table):
    """Settings of the sharpness score."""

    side: int = Field(512, ge=16)
    """Side in pixels of the square whose area images are brought to."""


def version(config: ScoreConfig) -> str:
    """Return the hash over the settings."""
    return content_key("sharpness", Options(**config.options).model_dump())


def load(config: ScoreConfig) -> Scorer:
    """Return the scorer."""
    return _Sharpness(Options(**config.options))


class _Sharpness:
    def __init__(self, options: Options) -> None:
        self.options = options

    def score(self, images: list[Image.Image]) -> list[float]:
        return [self._one(image) for image in images]

    def _one(self, image: Image.Image) -> float:
        import cv2

        scale = self.options.side / math.sqrt(image.width * image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        light = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS))
        return float(np.var(cv2.Laplacian(light, cv2.CV_64F, ksize=1)))
