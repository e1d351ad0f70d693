"""Control images for a ControlNet: one way of getting them a file;
the file's name is `kind` of `[data.controls]`. It has

    Options      a Table: the plug-in's own settings (`[data.controls] options`)
    READS_FILE   True where an image's own control file (`Item.control`) is needed
    IGNORES      optional: keys of `[data.controls]` that only other kinds read
    version      ControlConfig -> str, another one whenever control images may come out
                 differently; loads no model
    load         ControlConfig -> Maker, which keeps its model and is called once an image

A control image is RGB and of the size of the image as viewed. It follows every crop, flip and
zoom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raytrain import plugins
from raytrain.table import Table

if TYPE_CHECKING:
    from PIL import Image

    from raytrain.config.data import ControlConfig


class Maker(Protocol):
    """Makes control images, with whatever model it loaded."""

    def make(self, image: Image.Image, *, file: Image.Image | None) -> Image.Image:
        """Return the control image (RGB) of an image (RGB, as viewed), of the image's size.

        `file` is the image's own control file (any mode), None where there is none. BadImage where
        an image can have none.
        """


class Kind(Protocol):
    """What a file in `raytrain/data/controls` offers."""

    Options: type[Table]
    READS_FILE: bool

    def version(self, config: ControlConfig) -> str:
        """Return the hash over all that control images depend on besides the image."""

    def load(self, config: ControlConfig) -> Maker:
        """Return a maker; UserError where its model cannot be loaded."""


def load(kind: str) -> Kind:
    """Return the control plug-in `kind`."""
    module: Kind = plugins.load("data.controls", kind)
    return module
