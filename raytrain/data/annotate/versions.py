"""The pixels of an image's versions, as models help to make them: small images are enlarged first,
surroundings are painted.

Each such model is a tool: what only some versions are made by, so that only their content
addresses depend on it.
"""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytrain.config.data import DataConfig
from raytrain.data import outpainters
from raytrain.data.annotate import super_resolution
from raytrain.data.buckets import Size
from raytrain.data.image import render
from raytrain.data.image.image import BadImage
from raytrain.data.image.transform import Inset, Transform

OUTPAINTER = "outpainter"


def tools(data: DataConfig) -> dict[str, str]:
    """Return the hash of each tool the settings ask for."""
    found = {}
    if data.super_resolution.path:
        found[super_resolution.NAME] = super_resolution.version(data.super_resolution)
    if data.augment.outpainter:
        name = data.augment.outpainter
        found[OUTPAINTER] = f"{name}/{outpainters.load(name).version(data.augment)}"
    return found


def tools_of(data: DataConfig, width: int, transform: Transform) -> tuple[str, ...]:
    """Return the tools that make a version of an image of this width."""
    found = []
    if super_resolution.wanted(data.super_resolution, width, transform):
        found.append(super_resolution.NAME)
    if data.augment.outpainter and transform.inset:
        found.append(OUTPAINTER)
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
        shown = render.pixels(image, transform, bucket, self.data.buckets.resample)
        if self.data.augment.outpainter and transform.inset:
            return self._outpainted(Image.fromarray(shown), transform.inset)
        return shown

    def _outpainted(self, sketch: Image.Image, inset: Inset) -> NDArray[np.uint8]:
        """Paint the surroundings of a smaller image; the image itself stays as it is."""
        left, top = inset.left, inset.top
        box = (left, top, left + inset.width, top + inset.height)
        mask = Image.new("L", sketch.size, 255)
        mask.paste(0, box)
        seed = int.from_bytes(hashlib.sha256(sketch.tobytes()).digest()[:4])
        with self._lock:
            whole = self._outpainter.paint(sketch, mask, seed).convert("RGB")
        if whole.size != sketch.size:
            raise BadImage(f"its outpainter made {whole.size} of {sketch.size} pixels")
        whole.paste(sketch.crop(box), (left, top))
        return np.asarray(whole)

    def _enlarged(self, image: Image.Image) -> Image.Image:
        """Enlarge an image once for all its versions, which one thread makes."""
        if getattr(self._last, "image", None) is not image:
            with self._lock:
                enlarger = self._enlarger
            self._last.enlarged, self._last.image = enlarger.enlarge(image), image
        enlarged: Image.Image = self._last.enlarged
        return enlarged

    @cached_property
    def _outpainter(self) -> outpainters.Outpainter:
        return outpainters.load(self.data.augment.outpainter).load(self.data.augment)

    @cached_property
    def _enlarger(self) -> super_resolution.Enlarger:
        return super_resolution.Enlarger(self.data.super_resolution)
