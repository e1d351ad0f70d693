"""Control images in full size, uint8, for methods with a control branch (`[data.controls]`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raytrain.config import Config
from raytrain.data.image.opening import sound
from raytrain.data.image.render import pixels
from raytrain.data.store.schema import Array
from raytrain.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from raytrain.data.buckets import Size
    from raytrain.data.controls import Maker
    from raytrain.data.image.opening import Opened
    from raytrain.data.image.transform import Transform
    from raytrain.families import Family

OF, COMPANION, COLORS, MAKER = "image", "control", False, ""


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return the control plug-in and its own version."""
    from raytrain.data import controls

    own = config.data.controls
    if own.kind == "none":
        raise UserError(
            f'method.name = "{config.method.name}" reads control images, but data.controls.kind = '
            '"none" makes none; there would be nothing to learn from. Set data.controls.kind to a '
            "way of making them (canny, depth, folder, pose) and run `raytrain prepare`."
        )
    return {"control": f"{own.kind}/{controls.load(own.kind).version(own)}"}


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return (3, H, W)."""
    return {"control": Array(dtype="uint8", shape=(3,), cell=1)}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load the control plug-in's model."""
    from raytrain.data import controls

    kind = controls.load(config.data.controls.kind)
    return Encoder(kind.load(config.data.controls), kind.READS_FILE)


class Encoder:
    """A maker of control images, which serves one thread at a time."""

    def __init__(self, maker: Maker, reads_file: bool) -> None:
        """Take the maker."""
        self.maker, self.lock = maker, threading.Lock()
        self.needs = frozenset({"control"} if reads_file else ())

    def layer(self, image: Opened) -> Image.Image:
        """Return the control image of the whole image."""
        with self.lock:
            return self.maker.make(image.image, file=sound(image.control))

    def cut(self, layer: Image.Image, version: Transform, bucket: Size) -> np.ndarray:
        """Return one version, (3, H, W) uint8."""
        return np.ascontiguousarray(pixels(layer, version, bucket).transpose(2, 0, 1))

    def encode(self, cuts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Map n cuts to `control` (n, 3, H, W)."""
        return {"control": np.stack(cuts)}
