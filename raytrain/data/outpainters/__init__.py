"""Outpainters: what surrounds the smaller image of an outpainted version, one way a file; the
file's name is `outpainter` of `[data.augment]`.

An outpainter is a module with

    Options      a Table: the plug-in's own settings (`[data.augment] outpainter_options`)
    version      AugmentConfig -> str, another one whenever pixels may come out differently; loads
                 no model
    load         AugmentConfig -> Outpainter, which keeps its model and is called once a version

Without one the surroundings are the image's own reflection, blurred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raytrain import plugins
from raytrain.table import Table

if TYPE_CHECKING:
    from PIL import Image

    from raytrain.config.data import AugmentConfig


class Outpainter(Protocol):
    """Paints surroundings, with whatever model it loaded; it serves one thread at a time."""

    def paint(self, image: Image.Image, mask: Image.Image, seed: int) -> Image.Image:
        """Return an RGB image (of the bucket's size, its surroundings sketched) painted anew where
        the mask (mode L) is white; the same for the same seed. What it paints elsewhere is not
        used. BadImage where this image can have none."""


class Kind(Protocol):
    """What a file in `raytrain/data/outpainters` offers."""

    Options: type[Table]

    def version(self, config: AugmentConfig) -> str:
        """Return the hash over all that pixels depend on besides the image."""

    def load(self, config: AugmentConfig) -> Outpainter:
        """Load the outpainter; UserError where it cannot be."""


def load(name: str) -> Kind:
    """Return the outpainter plug-in `name`."""
    module: Kind = plugins.load("data.outpainters", name)
    return module
