"""Masks made by hand, one file an image in the folder `masks` of its subset."""

from __future__ import annotations

from typing import Literal

from PIL import Image

from raytrain.config.data import MaskConfig
from raytrain.data.image.companion import fit, gray
from raytrain.data.image.image import BadImage
from raytrain.data.masks import Masker
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = True
IGNORES = ("path", "prompt")


class Options(Table):
    """Settings of hand-made masks."""

    missing: Literal["reject", "white"] = "reject"
    """An image without a mask file is left out, or counts everywhere."""


def version(config: MaskConfig) -> str:
    """Return the hash over the settings; the mask files are part of each image's own stamp."""
    return content_key("folder", Options(**config.options).model_dump())


def load(config: MaskConfig) -> Masker:
    """Return the reader of mask files."""
    return _Files(Options(**config.options))


class _Files:
    def __init__(self, options: Options) -> None:
        self.options = options

    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        if file is not None:
            return fit(_to_gray(file), image.size, "mask")
        if self.options.missing == "white":
            return Image.new("L", image.size, 255)
        raise BadImage('it has no mask file; add one, or set data.masks.options.missing = "white"')


def _to_gray(file: Image.Image) -> Image.Image:
    """Return a mask file's luminance on black; where only the transparency differs from place to
    place, that is the mask."""
    if file.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in file.info:
        return gray(file)
    layer = file.convert("RGBA")
    light, opacity = layer.convert("L"), layer.getchannel("A")
    visible = light.histogram(opacity.point(lambda value: 255 * (value > 0)))
    if opacity.getextrema() != (255, 255) and sum(count > 0 for count in visible) <= 1:
        return opacity
    return Image.composite(light, Image.new("L", light.size), opacity)
