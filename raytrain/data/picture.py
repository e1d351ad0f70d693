"""From a picture file's bytes to the pixels of its bucket. Pure; every fault is a `BadPicture` with its reason."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from raytrain.data.bucket import Size

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
TRANSFORM = "cover-lanczos-crop/1"
"""Names what `decode` and `cut` do; part of every latent's content address. Change it when the pixels change."""

Image.MAX_IMAGE_PIXELS = None  # the limit is `max_pixels`, checked on every header before anything is decoded


class BadPicture(Exception):  # noqa: N818 - a verdict on one file, not a fault of the program
    """This file cannot be a training picture; the message is the reason."""


class Placement(NamedTuple):
    """Where a bucket lies in a picture: resize to these two sides, then cut the bucket at (top, left)."""

    resized_width: int
    resized_height: int
    top: int
    left: int


def measure(content: bytes, max_pixels: int) -> Size:
    """Read width and height, as the picture is viewed (EXIF rotation applied), from the header alone."""
    with _open(content, max_pixels) as picture:
        width, height = picture.size
        turned = _guard(picture.getexif).get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def decode(content: bytes, max_pixels: int) -> Image.Image:
    """Decode to RGB as viewed: EXIF rotation applied, transparency on white, 16 bits to 8, first frame."""
    with _open(content, max_pixels) as picture:
        _guard(picture.load)
        result: Image.Image = _guard(_to_rgb, _guard(ImageOps.exif_transpose, picture))
    return result


def place(
    width: int,
    height: int,
    bucket: Size,
    crop: Literal["centre", "random"] = "centre",
    identity: str = "",
    seed: int = 0,
) -> Placement:
    """Return the smallest resize that covers the bucket, and where to cut it.

    A random cut is a pure function of the picture's identity (its content hash) and the seed.
    """
    scale = max(bucket[0] / width, bucket[1] / height)
    resized = max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))
    across, down = resized[0] - bucket[0], resized[1] - bucket[1]
    if crop == "centre":
        return Placement(*resized, down // 2, across // 2)
    draws = hashlib.sha256(f"{identity}/{seed}".encode()).digest()
    return Placement(*resized, _draw(draws[:8], down), _draw(draws[8:16], across))


def cut(picture: Image.Image, placement: Placement, bucket: Size) -> NDArray[np.uint8]:
    """Resize (Lanczos, which averages over areas when it shrinks) and cut: pixels (H, W, 3) of the bucket's size."""
    resized = picture.size
    if resized != placement[:2]:
        picture = picture.resize(placement[:2], Image.Resampling.LANCZOS)
    box = (placement.left, placement.top, placement.left + bucket[0], placement.top + bucket[1])
    return np.asarray(picture.crop(box))


def _open(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise BadPicture("the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture: Image.Image = _guard(Image.open, io.BytesIO(content), formats=FORMATS)
    width, height = picture.size
    if width * height > max_pixels:
        raise BadPicture(
            f"{width}x{height} = {width * height} pixels is above data.max_pixels = {max_pixels}; not decoded"
        )
    return picture


def _guard(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a Pillow function; whatever it raises on broken input becomes a BadPicture."""
    try:
        return function(*arguments, **options)
    except UnidentifiedImageError:
        raise BadPicture(f"not a picture (one of {', '.join(FORMATS)})") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise BadPicture(f"damaged picture: {type(error).__name__}: {error}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return _grey16(picture)
    if picture.mode == "F":
        raise BadPicture("floating-point pictures have no defined white; convert it to 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def _grey16(picture: Image.Image) -> Image.Image:
    """Map 16-bit grey to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(picture, dtype=np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadPicture("integer picture of more than 16 bits; convert it to 8 or 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")


def _draw(digest: bytes, room: int) -> int:
    return int.from_bytes(digest) * (room + 1) >> 64
