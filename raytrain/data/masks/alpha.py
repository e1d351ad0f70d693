"""Masks from an image's own transparency: what can be seen counts,
what is transparent does not."""

from __future__ import annotations

from PIL import Image

from raytrain.config.data import MaskConfig
from raytrain.data.masks import Masker
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = False
IGNORES = ("path", "prompt")


class Options(Table):
    """There is nothing to set."""


def version(config: MaskConfig) -> str:
    """Return a constant: the mask depends on the image alone."""
    return content_key("alpha")


def load(config: MaskConfig) -> Masker:
    """Return the masker."""
    return _Alpha()


class _Alpha:
    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        """Return the alpha channel; an image without one counts everywhere."""
        return alpha if alpha is not None else Image.new("L", image.size, 255)
