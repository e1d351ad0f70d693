"""Loss masks: one way of getting them a file; the file's name is `kind` of `[data.masks]`.

A mask plug-in is a module with

    Options      a Table: the plug-in's own settings (`[data.masks] options`)
    READS_FILE   True where an image's own mask file (`Item.mask`) is needed
    IGNORES      optional: keys of `[data.masks]` that only other kinds read
    version      MaskConfig -> str, another one whenever masks may come out differently; loads no
                 model
    load         MaskConfig -> Masker, which keeps its model and is called once an image

A mask is a gray image of the size of the image as viewed. White (255) counts fully in the loss,
black (0) not at all, gray in proportion. It is made before cropping, follows every crop, flip and
zoom, and is stored at latent size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raytrain import plugins
from raytrain.table import Table

if TYPE_CHECKING:
    from PIL import Image

    from raytrain.config.data import MaskConfig


class Masker(Protocol):
    """Makes masks, with whatever model it loaded."""

    def mask(
        self, image: Image.Image, *, file: Image.Image | None, alpha: Image.Image | None
    ) -> Image.Image:
        """Return the mask (mode L) of an image (RGB, as viewed), of the image's size.

        `file` is the image's own mask file (any mode) and `alpha` its transparency (mode L), each
        None where there is none. BadImage where this image can have no mask.
        """


class Kind(Protocol):
    """What a file in `raytrain/data/masks` offers."""

    Options: type[Table]
    READS_FILE: bool

    def version(self, config: MaskConfig) -> str:
        """Return the hash over all that masks depend on besides the image."""

    def load(self, config: MaskConfig) -> Masker:
        """Return a masker; UserError where its model cannot be loaded."""


def load(kind: str) -> Kind:
    """Return the mask plug-in `kind`."""
    module: Kind = plugins.load("data.masks", kind)
    return module
