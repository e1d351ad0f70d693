"""Sharpness: the variance of the Laplacian, low for blurred pictures (Pech-Pacheco et al. 2000, "Diatom autofocusing").

Measured on luminance of 0..255 with the picture's shorter side brought to `side` pixels, so that pictures of different sizes
compare: an enlarged small picture is a blurred one. Flat pictures score 0, sharp photographs hundreds to thousands, and below
about 100 most people call one blurred; noise counts as sharpness.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from pydantic import Field

from raytrain.data.schema import content_key
from raytrain.data.scores import Scorer
from raytrain.dataconfig import ScoreConfig
from raytrain.table import Table


class Options(Table):
    """Settings of the sharpness score."""

    side: int = Field(512, ge=16)
    """Shorter side in pixels at which pictures are compared."""


def version(config: ScoreConfig) -> str:
    """Return the hash over the settings."""
    return content_key("sharpness", Options(**config.options).model_dump())


def load(config: ScoreConfig) -> Scorer:
    """Return the scorer."""
    return _Sharpness(Options(**config.options))


class _Sharpness:
    def __init__(self, options: Options) -> None:
        self.options = options

    def score(self, pictures: list[Image.Image]) -> list[float]:
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: Image.Image) -> float:
        import cv2

        scale = self.options.side / min(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        light = np.asarray(picture.convert("L").resize(size, Image.Resampling.LANCZOS))
        return float(np.var(cv2.Laplacian(light, cv2.CV_64F, ksize=1)))
