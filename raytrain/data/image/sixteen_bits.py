"""Sixteen bits a channel to eight, rounded; Pillow itself drops the lower byte of color images and
clips gray ones.

Pillow has no mode for 16-bit colors, but it can unpack either byte of each value: which one
depends on the byte order it is given. So the image is decoded twice, once for each byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_MODES = {"RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}


def is_wide(image: ImageFile.ImageFile) -> bool:
    """Tell whether an image that is open but not loaded has 16 bits a channel that `narrow`
    reads."""
    return image.mode.startswith("I;16") or _layout(image) in (*_MODES, "LA")


def narrow(opener: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Return a wide image as mode L, LA, RGB, RGBA or CMYK with round(v * 255 / white)
    of each value v.

    `opener` opens the same image again. Transparency given as one color becomes an alpha channel.
    """
    with opener() as image:
        layout = _layout(image)
        key = image.info.get("transparency")
        if image.mode.startswith("I;16"):
            return _gray(image, key)
        if layout == "LA":
            pairs = _unpack(image, "RGBA").astype(
                np.uint16
            )  # the four bytes of a pixel: gray, then alpha
            return _image(pairs[..., ::2] * 256 + pairs[..., 1::2], "LA")
        order = _rawmode(image)[-1]
        high = _unpack(image, f"{layout};16{order}").astype(np.uint16)
    with opener() as image:
        values = high * 256 + _unpack(image, f"{layout};16{_OTHER[order]}")
    mode = _MODES[layout]
    if key is None or mode != "RGB":
        return _image(values, mode)
    alpha = (values != np.array(key, np.uint16)).any(-1, keepdims=True) * np.uint16(65535)
    return _image(np.concatenate([values, alpha], -1), "RGBA")


def _gray(image: ImageFile.ImageFile, key: int | None) -> Image.Image:
    tags = getattr(image, "tag_v2", {})
    white = 2 ** int(np.max(tags.get(ExifTags.Base.BitsPerSample, 16))) - 1
    inverted = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    values = np.asarray(image).astype(np.uint16)
    gray = _image((white - values if inverted else values).astype(np.uint16), "L", white)
    if key is not None:
        gray.putalpha(Image.fromarray((values != key) * np.uint8(255)))
    return gray


def _unpack(image: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """Decode with another way of unpacking."""
    image.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile
    ]
    return np.asarray(image)


def _image(values: NDArray[np.uint16], mode: str, white: int = 65535) -> Image.Image:
    scaled = (values.astype(np.uint32) * 255 + white // 2) // white
    height, width = values.shape[:2]
    return Image.frombytes(mode, (width, height), scaled.astype(np.uint8).tobytes())


def _layout(image: ImageFile.ImageFile) -> str:
    """Return the channels of 16-bit colors, such as RGBA; empty where they are not of 16 bits."""
    name, _, depth = _rawmode(image).partition(";")
    return name if depth[:2] == "16" else ""


def _rawmode(image: ImageFile.ImageFile) -> str:
    if not image.tile:
        return ""
    args = image.tile[0].args
    rawmode = args if isinstance(args, str) else args[0] if args else ""
    return rawmode if isinstance(rawmode, str) else ""
