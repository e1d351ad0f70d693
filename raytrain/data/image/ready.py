"""Latents that another trainer has cached, in place of an image. Pure.

sd-scripts writes an npz an image, `<stem>_<width>x<height>_sd.npz` or `..._sdxl.npz`: `latents`
(C, h, w), unscaled, of one draw from the posterior; `original_size` (width, height); `crop_ltrb`,
in pixels of the resized image; perhaps `latents_flipped` and `alpha_mask` (H, W) in [0, 1]. Newer
ones end each name with the latents' size. sd-trainer writes an npy of the latents alone. Of both,
a latent cell is eight pixels. Arrays of objects, which would be pickles, are not read.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raytrain.data.image.image import BadImage
from raytrain.table import Size

ENDINGS = (".npz", ".npy")
CELL = 8
"""Pixels along one side of a latent cell, of both trainers' models."""
_FAMILY = re.compile(r"_(sd|sdxl)\.npz$")
_FAMILIES = {"sd": "sd15", "sdxl": "sdxl"}


class Facts(NamedTuple):
    """What planning has to know of cached latents."""

    channels: int
    bucket: Size
    original: Size
    crop_top: int
    crop_left: int
    flipped: bool
    """Whether there are latents of the mirror image too."""
    alpha: bool

    def to_json(self) -> str:
        """Return a list, as tables hold it."""
        return json.dumps(self)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Read what `to_json` wrote."""
        channels, bucket, original, *rest = json.loads(text)
        return cls(channels, tuple(bucket), tuple(original), *rest)


class Ready(NamedTuple):
    """Cached latents."""

    latents: NDArray[np.float32]
    """(C, h, w), unscaled."""
    original: Size
    crop_top: int
    crop_left: int
    flipped: NDArray[np.float32] | None
    alpha: NDArray[np.float32] | None
    """(H, W) in [0, 1]."""

    @property
    def facts(self) -> Facts:
        """What planning has to know."""
        channels, height, width = self.latents.shape
        return Facts(
            channels, (width * CELL, height * CELL), self.original, self.crop_top, self.crop_left,
            self.flipped is not None, self.alpha is not None,
        )  # fmt: skip


def is_ready(location: str) -> bool:
    """Tell by a location whether it holds cached latents."""
    return location.endswith(ENDINGS)


def family_of(location: str) -> str:
    """Return the family whose VAE made the latents, as far as the file's name says; else ""."""
    found = _FAMILY.search(location)
    return _FAMILIES[found[1]] if found else ""


def read(content: bytes) -> Ready:
    """Read the bytes of an npz or npy; BadImage says what is wrong."""
    arrays = read_arrays(content)
    names = {re.sub(r"_\d+x\d+$", "", name): name for name in arrays}
    if "latents" not in names:
        raise BadImage(f"no latents are in it, but {', '.join(arrays) or 'nothing'}")
    latents = arrays[names["latents"]]
    if latents.ndim != 3 or latents.dtype.kind != "f" or not latents.size:
        raise BadImage(
            f"latents must be (channels, height, width) of floating point, got {latents.dtype} "
            f"{latents.shape}"
        )
    _, height, width = latents.shape
    original = _integers(arrays, names, "original_size", (width * CELL, height * CELL))
    left, top, *_ = _integers(arrays, names, "crop_ltrb", (0, 0, 0, 0))
    flipped = arrays[names["latents_flipped"]] if "latents_flipped" in names else None
    if flipped is not None and flipped.shape != latents.shape:
        raise BadImage(f"latents_flipped is {flipped.shape}, but latents {latents.shape}")
    alpha = arrays[names["alpha_mask"]] if "alpha_mask" in names else None
    return Ready(
        latents.astype(np.float32),
        (original[0], original[1]),
        max(0, top),
        max(0, left),
        flipped if flipped is None else flipped.astype(np.float32),
        alpha if alpha is None else alpha.astype(np.float32),
    )


def read_arrays(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of an npz by name, or that of an npy as `latents`."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"latents": found}
        with found:
            return {name: found[name] for name in found.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise BadImage(f"no npz or npy that can be read: {error}") from error


def _integers(
    arrays: dict[str, np.ndarray], names: dict[str, str], name: str, default: tuple[int, ...]
) -> tuple[int, ...]:
    if name not in names:
        return default
    found = np.asarray(arrays[names[name]]).ravel()
    if len(found) != len(default) or not np.isfinite(found.astype(float)).all():
        raise BadImage(f"{name} must have {len(default)} numbers, got {found.tolist()}")
    return tuple(int(value) for value in found)
