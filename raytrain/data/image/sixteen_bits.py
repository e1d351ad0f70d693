"""Sixteen bits a channel to eight, rounded; Pillow itself drops the lower byte of colour pictures and clips grey ones.

Pillow has no mode for 16-bit colours, but it can unpack either byte of each value: which one is a matter of the byte
order it is told. So the picture is decoded twice, once for each byte.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile

_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_MODES = {"RGB": "RGB", "RGBX": "RGB", "RGBA": "RGBA", "CMYK": "CMYK"}


def is_wide(picture: ImageFile.ImageFile) -> bool:
    """Tell whether a picture that is open but not loaded has 16 bits a channel that `narrow` reads."""
    return picture.mode.startswith("I;16") or _layout(picture) in (*_MODES, "LA")


def narrow(opener: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """Return a wide picture as mode L, LA, RGB, RGBA or CMYK with round(v * 255 / white) of each value v.

    `opener` opens the same picture anew. Transparency given as one colour becomes an alpha channel.
    """
    with opener() as picture:
        layout = _layout(picture)
        key = picture.info.get("transparency")
        if picture.mode.startswith("I;16"):
            return _grey(picture, key)
        if layout == "LA":
            pairs = _unpack(picture, "RGBA").astype(np.uint16)  # the four bytes of a pixel: grey, then alpha
            return _image(pairs[..., ::2] * 256 + pairs[..., 1::2], "LA")
        order = _rawmode(picture)[-1]
        high = _unpack(picture, f"{layout};16{order}").astype(np.uint16)
    with opener() as picture:
        values = high * 256 + _unpack(picture, f"{layout};16{_OTHER[order]}")
    mode = _MODES[layout]
    if key is None or mode != "RGB":
        return _image(values, mode)
    alpha = (values != np.array(key, np.uint16)).any(-1, keepdims=True) * np.uint16(65535)
    return _image(np.concatenate([values, alpha], -1), "RGBA")


def _grey(picture: ImageFile.ImageFile, key: int | None) -> Image.Image:
    tags = getattr(picture, "tag_v2", {})
    white = 2 ** int(np.max(tags.get(ExifTags.Base.BitsPerSample, 16))) - 1
    inverted = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
    values = np.asarray(picture).astype(np.uint16)
    grey = _image((white - values if inverted else values).astype(np.uint16), "L", white)
    if key is not None:
        grey.putalpha(Image.fromarray((values != key) * np.uint8(255)))
    return grey


def _unpack(picture: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    """Decode with another way of unpacking."""
    picture.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in picture.tile
    ]
    return np.asarray(picture)


def _image(values: NDArray[np.uint16], mode: str, white: int = 65535) -> Image.Image:
    scaled = (values.astype(np.uint32) * 255 + white // 2) // white
    height, width = values.shape[:2]
    return Image.frombytes(mode, (width, height), scaled.astype(np.uint8).tobytes())


def _layout(picture: ImageFile.ImageFile) -> str:
    """Return the channels of 16-bit colours, such as RGBA; empty where they are not of 16 bits."""
    name, _, depth = _rawmode(picture).partition(";")
    return name if depth[:2] == "16" else ""


def _rawmode(picture: ImageFile.ImageFile) -> str:
    if not picture.tile:
        return ""
    args = picture.tile[0].args
    rawmode = args if isinstance(args, str) else args[0] if args else ""
    return rawmode if isinstance(rawmode, str) else ""
