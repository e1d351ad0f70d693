"""Loss masks at latent size, uint8: 255 where the loss counts in full (`[data.masks]`)."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raytrain.config import Config
from raytrain.data.image.opening import sound
from raytrain.data.image.render import gray
from raytrain.data.store.schema import Array
from raytrain.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from raytrain.data.buckets import Size
    from raytrain.data.image.opening import Opened
    from raytrain.data.image.transform import Transform
    from raytrain.data.masks import Masker
    from raytrain.families import Family

OF, COMPANION, COLORS, MAKER = "image", "mask", False, ""


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return the mask plug-in, its own version, and the pixels of a cell."""
    from raytrain.data import masks

    own = config.data.masks
    if own.kind == "none":
        raise UserError(
            f'method.name = "{config.method.name}" reads masks, but data.masks.kind = "none" '
            "makes none; there would be nothing to read. Set data.masks.kind to a way of making "
            "them."
        )
    made = f"{own.kind}/{masks.load(own.kind).version(own)}"
    return {"mask": made, "cell": str(family.latent(config.model).factor)}


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return (h, w)."""
    return {"mask": Array(dtype="uint8", shape=(), cell=family.latent(config.model).factor)}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load the mask plug-in's model."""
    from raytrain.data import masks

    kind = masks.load(config.data.masks.kind)
    return Encoder(
        kind.load(config.data.masks), kind.READS_FILE, family.latent(config.model).factor
    )


class Encoder:
    """A masker, which serves one thread at a time."""

    def __init__(self, masker: Masker, reads_file: bool, cell: int) -> None:
        """Take the masker and the pixels of a latent cell."""
        self.masker, self.cell, self.lock = masker, cell, threading.Lock()
        self.needs = frozenset({"alpha", "mask"} if reads_file else {"alpha"})

    def layer(self, image: Opened) -> Image.Image:
        """Return the mask of the whole image."""
        with self.lock:
            return self.masker.mask(image.image, file=sound(image.mask), alpha=image.alpha)

    def cut(self, layer: Image.Image, version: Transform, bucket: Size) -> np.ndarray:
        """Return the mask of one version at latent size, (h, w) uint8."""
        return gray(layer, version, bucket, (bucket[0] // self.cell, bucket[1] // self.cell))

    def encode(self, cuts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Map n cuts to `mask` (n, h, w)."""
        return {"mask": np.stack(cuts)}
