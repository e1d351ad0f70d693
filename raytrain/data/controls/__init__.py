"""Control pictures for a ControlNet: one way of getting them a file; the file's name is `kind` of `[data.controls]`. It has

    Options      a Table: the plug-in's own settings (`[data.controls] options`)
    READS_FILE   True where a picture's own control file (`Item.control`) is needed
    version      ControlConfig -> str, another one whenever control pictures may come out differently; loads no model
    load         ControlConfig -> Maker, which keeps its model and is called once a picture

A control picture is RGB and of the size of the picture as viewed. It follows every crop, flip and zoom.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raytrain import plugins
from raytrain.config.base import Table

if TYPE_CHECKING:
    from PIL import Image

    from raytrain.config.data import ControlConfig


class Maker(Protocol):
    """Makes control pictures, with whatever model it loaded."""

    def make(self, picture: Image.Image, *, file: Image.Image | None) -> Image.Image:
        """Return the control picture (RGB) of a picture (RGB, as viewed), of the picture's size.

        `file` is the picture's own control file (any mode), None where there is none. BadPicture where a picture can have none.
        """


class Kind(Protocol):
    """What a file in `raytrain/data/controls` offers."""

    Options: type[Table]
    READS_FILE: bool

    def version(self, config: ControlConfig) -> str:
        """Return the hash over all that control pictures depend on beside the picture."""

    def load(self, config: ControlConfig) -> Maker:
        """Return a maker; UserError where its model cannot be loaded."""


def load(kind: str) -> Kind:
    """Return the control plug-in `kind`."""
    module: Kind = plugins.load("data.controls", kind)
    return module
