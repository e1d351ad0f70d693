"""How a version's pixels are made, uint8: what is stored of an image with `data.cache = false`.

Each image is decoded in full when it is prepared, so broken ones are left out as ever; the step
that trains on a version decodes it again and has the VAE encode it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raytrain.config import Config
from raytrain.data.annotate import versions
from raytrain.data.image.transform import Transform
from raytrain.data.store.schema import Array

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from raytrain.data.buckets import Size
    from raytrain.data.image.opening import Opened
    from raytrain.families import Family

OF, COMPANION, COLORS, MAKER = "image", "", True, ""
BYTES = 160
"""Of a transform's JSON, filled up with spaces: ten numbers of five decimals, and room."""


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return how images are resized."""
    return {"filter": config.data.buckets.resample}


def tools(config: Config) -> Mapping[str, str]:
    """Return the hashes of the models that help to make versions."""
    return versions.tools(config.data)


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return the bytes of a transform."""
    return {"transform": Array(dtype="uint8", shape=(BYTES,))}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load nothing."""
    return Encoder()


def read(row: np.ndarray) -> Transform:
    """Return the transform that a row (BYTES,) uint8 holds."""
    return Transform.from_json(row.tobytes().decode())


class Encoder:
    """Writes transforms down."""

    needs: frozenset[str] = frozenset()

    def layer(self, image: Opened) -> Image.Image:
        """Return the image itself."""
        return image.image

    def cut(self, layer: Image.Image, version: Transform, bucket: Size) -> np.ndarray:
        """Return a version's transform, (BYTES,) uint8."""
        return np.frombuffer(version.to_json().encode().ljust(BYTES), np.uint8)

    def encode(self, cuts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Map n versions to `transform` (n, BYTES)."""
        return {"transform": np.stack(cuts)}
