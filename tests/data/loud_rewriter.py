"""A rewriter that writes captions in capitals."""

from __future__ import annotations

from raytrain.config.data import CaptionConfig
from raytrain.data.image.image import BadImage
from raytrain.table import Table


class Options(Table):
    """None."""


def version(config: CaptionConfig) -> str:
    """Return a constant."""
    return "loud"


def load(config: CaptionConfig) -> Loud:
    """Load nothing."""
    return Loud()


class Loud:
    """Shouts."""

    def rewrite(self, captions: list[str]) -> list[str | BadImage]:
        """Return each caption in capitals."""
        return [caption.upper() for caption in captions]
