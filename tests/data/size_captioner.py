"""A captioner that says how large the image is that it sees, and the color in its middle."""

from __future__ import annotations

from PIL import Image

from raytrain.config.data import CaptionConfig
from raytrain.data.image.image import BadImage
from raytrain.table import Table

PROMPT: str | None = None
NEEDS_PATH = False


class Options(Table):
    """None."""


def version(config: CaptionConfig) -> str:
    """Return a constant."""
    return "size"


def load(config: CaptionConfig, device: str = "") -> Sizes:
    """Load nothing."""
    return Sizes()


class Sizes:
    """Says sizes."""

    def caption(self, images: list[Image.Image]) -> list[str | BadImage]:
        """Return width, height and color of each image."""
        middles = [one.getpixel((one.width // 2, one.height // 2)) for one in images]
        return [
            f"{one.width} {one.height} {middle}"
            for one, middle in zip(images, middles, strict=True)
        ]
