"""Control images made by hand, one file an image in the folder `controls` of its subset."""

from __future__ import annotations

from PIL import Image

from raytrain.config.data import ControlConfig
from raytrain.data.controls import Maker
from raytrain.data.image.companion import fit, gray
from raytrain.data.image.image import BadImage
from raytrain.data.store.schema import content_key
from raytrain.table import Table

READS_FILE = True
IGNORES = ("path",)


class Options(Table):
    """There is nothing to set."""


def version(config: ControlConfig) -> str:
    """Return a constant: the control files are part of each image's own stamp."""
    return content_key("folder")


def load(config: ControlConfig) -> Maker:
    """Return the reader of control files."""
    return _Files()


class _Files:
    def make(self, image: Image.Image, *, file: Image.Image | None) -> Image.Image:
        """Return the file in RGB; transparent places are black,
        which says nothing to a ControlNet."""
        if file is None:
            raise BadImage("it has no control file; a ControlNet needs one for each image")
        if file.mode.startswith("I") or file.mode == "F":
            file = gray(file)
        layer = file.convert("RGBA")
        return fit(
            Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB"),
            image.size,
            "control",
        )
