"""The pixels of an image's versions, as models help to make them: small images are enlarged first.

Each such model is a tool: what only some versions are made by, so that only their content
addresses depend on it.
"""

from __future__ import annotations

import threading
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytrain.config.data import DataConfig
from raytrain.data.annotate import super_resolution
from raytrain.data.buckets import Size
from raytrain.data.image import render
from raytrain.data.image.transform import Transform


def tools(data: DataConfig) -> dict[str, str]:
    """Return the hash of each tool the settings ask for."""
    found = {}
    if data.super_resolution.path:
        found[super_resolution.NAME] = super_resolution.version(data.super_resolution)
    return found


def tools_of(data: DataConfig, width: int, transform: Transform) -> tuple[str, ...]:
    """Return the tools that make a version of an image of this width."""
    found = []
    if super_resolution.wanted(data.super_resolution, width, transform):
        found.append(super_resolution.NAME)
    return tuple(found)


class Maker:
    """Makes versions, in threads; a model is loaded when first needed."""

    def __init__(self, data: DataConfig) -> None:
        """Take the settings."""
        self.data = data
        self._lock = threading.Lock()
        self._last = threading.local()

    def pixels(self, image: Image.Image, transform: Transform, bucket: Size) -> NDArray[np.uint8]:
        """Return one version of an RGB image, (H, W, 3)."""
        if super_resolution.wanted(self.data.super_resolution, image.width, transform):
            image = self._enlarged(image)
        return render.pixels(image, transform, bucket, self.data.buckets.resample)

    def _enlarged(self, image: Image.Image) -> Image.Image:
        """Enlarge an image once for all its versions, which one thread makes."""
        if getattr(self._last, "image", None) is not image:
            with self._lock:
                enlarger = self._enlarger
            self._last.enlarged, self._last.image = enlarger.enlarge(image), image
        enlarged: Image.Image = self._last.enlarged
        return enlarged

    @cached_property
    def _enlarger(self) -> super_resolution.Enlarger:
        return super_resolution.Enlarger(self.data.super_resolution)
