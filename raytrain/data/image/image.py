"""From an image file's bytes to the pixels a viewer shows, as 8-bit RGB.

Pure; every fault is a `BadImage` with its reason. What is read: PNG, JPEG (MPO too), WebP, GIF,
BMP, TIFF, AVIF; of an animation the first frame. EXIF rotation is applied, 16 bits are rounded to
8, colors are brought to sRGB by the ICC profile, and transparency is composited on a color. What
Pillow would decode wrongly or in part is refused: see `integrity`.
"""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from raytrain.data.image import integrity, kinds, profile, sixteen_bits
from raytrain.table import Size

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
DECODING = "decode/2"
"""Names what `decode` does. Change it when the pixels of any image change:
they are part of every array's content address."""
_FOREIGN = f"not an image that is read ({', '.join(FORMATS)})"
_BROKEN_METADATA = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    OSError,
    EOFError,
    struct.error,
)
"""What Pillow raises on an image's broken EXIF, which does not make a broken image."""
_TURNS = dict(
    zip(
        range(2, 9),
        (
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ),
        strict=True,
    )
)
"""EXIF orientation -> what brings the image upright."""

Image.MAX_IMAGE_PIXELS = (
    None  # the limit is `max_pixels`, checked on every header before anything is decoded
)
warnings.filterwarnings(
    "ignore", module=r"PIL\."
)  # of oddities in single files, of which the verdict is enough


class BadImage(Exception):  # noqa: N818 - a verdict on one file, not a fault of the program
    """This file cannot be a training image; the message is the reason."""


def header(content: bytes, max_pixels: int) -> tuple[Size, bool]:
    """Read from the header alone: width and height, as the image is viewed (EXIF rotation
    applied), and whether it may have transparency, so that its pixels depend on a background.
    """
    with _open(content, max_pixels) as image:
        width, height = image.size
        turned = _guard(_orientation, image, content) in (5, 6, 7, 8)
        transparent = bool(image.has_transparency_data)
    return (height, width) if turned else (width, height), transparent


def measure(content: bytes, max_pixels: int) -> Size:
    """Read width and height, as the image is viewed, from the header alone."""
    return header(content, max_pixels)[0]


def decode(content: bytes, max_pixels: int, background: str = "white") -> Image.Image:
    """Decode to RGB as viewed, transparency on the background color (a name or #rrggbb)."""
    return on_background(_layer(content, max_pixels), background)


def decode_layers(
    content: bytes, max_pixels: int, background: str = "white"
) -> tuple[Image.Image, Image.Image | None]:
    """Decode to the image as `decode` gives it, and its alpha channel (mode L, 255 opaque),
    if it has one."""
    layer = _layer(content, max_pixels)
    return on_background(layer, background), layer.getchannel(
        "A"
    ) if layer.mode == "RGBA" else None


def capped(size: Size, side: int | None) -> Size:
    """Return the size of an image of this shape whose longer side is at most `side`."""
    scale = 1.0 if side is None else min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def decode_any(content: bytes, max_pixels: int) -> Image.Image:
    """Decode values, not colors (a mask, a control image): RGB or RGBA as viewed,
    the ICC profile ignored."""
    return _layer(content, max_pixels, colors=False)


def on_background(image: Image.Image, background: str) -> Image.Image:
    """Return an image of any 8-bit mode as RGB, its transparency on the background color."""
    if not image.has_transparency_data:
        return image.convert("RGB") if image.mode != "RGB" else image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, background), layer).convert("RGB")


def _layer(content: bytes, max_pixels: int, colors: bool = True) -> Image.Image:
    """Decode to RGB, or RGBA where the image has transparency, upright and in sRGB."""
    whole = _guard(integrity.checked, content)
    with _open(whole, max_pixels) as image:
        orientation = _guard(_orientation, image, content)
        meaning = image.info.get("icc_profile") if colors else None
        if sixteen_bits.is_wide(image):
            decoded = _guard(sixteen_bits.narrow, lambda: _open(whole, max_pixels))
        else:
            _refuse_undefined(image)
            _guard(image.load)
            decoded = _guard(_eight_bits, image)
    layer: Image.Image = _guard(profile.to_srgb, decoded, meaning or b"")
    return layer.transpose(_TURNS[orientation]) if orientation in _TURNS else layer


def _open(content: bytes, max_pixels: int) -> Any:
    if not content:
        raise BadImage("the file is empty")
    try:
        image = _guard(Image.open, io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        if name := kinds.own(content):
            what = (
                f"damaged image: its {name} header is broken or of an unknown variant; save it "
                "again with an editor"
            )
        else:
            other = kinds.describe(content)
            what = f"{_FOREIGN}: it is {other}" if other else _FOREIGN
        raise BadImage(what) from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadImage(
            f"{width}x{height} = {width * height} pixels is above data.max_pixels = {max_pixels}; "
            "not decoded"
        )
    if image.format == "TIFF" and _is_preview(image, content):
        raise BadImage(f"{_FOREIGN}: it is {kinds.RAW}")
    return image


def _guard(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a function on what may be broken input; nearly anything that a decoder raises becomes a
    BadImage."""
    try:
        return function(*arguments, **options)
    except (BadImage, UnidentifiedImageError, MemoryError):
        raise
    except Exception as error:
        raise BadImage(f"damaged image: {error or type(error).__name__}") from error


def _orientation(image: Image.Image, content: bytes) -> int:
    """Return the EXIF orientation that is still to be applied; 1 where it is missing,
    broken or outside 1 to 8."""
    if image.format == "TIFF":
        return 1  # Pillow turns it by itself, its size included
    if (
        image.format == "PNG"
        and "exif" not in image.info
        and (late := integrity.png_exif(content))
    ):
        image.info["exif"] = late
    try:
        # Not the PNG class's own `getexif`, which decodes the image to look for EXIF behind the
        # pixels.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except _BROKEN_METADATA:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _is_preview(image: Any, content: bytes) -> bool:
    """Tell whether a TIFF is a camera's raw file, whose first directory holds a preview of the
    image alone."""
    tags = image.tag_v2
    return (
        content[8:10] == b"CR"
        or 50706 in tags
        or bool(tags.get(ExifTags.Base.NewSubfileType, 0) & 1)
    )


def _refuse_undefined(image: Any) -> None:
    """Refuse images whose values have no defined black and white,
    or that Pillow reads as something else."""
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise BadImage("floating-point images have no defined white; convert it to 8 or 16 bits")
    if image.mode == "I" or 2 in np.atleast_1d(tags.get(ExifTags.Base.SampleFormat, 1)):
        raise BadImage(
            "images of signed or 32-bit integers have no defined white; convert it to 8 or 16 bits"
        )
    if tags.get(ExifTags.Base.PlanarConfiguration) == 2 and 16 in np.atleast_1d(
        tags.get(ExifTags.Base.BitsPerSample, 8)
    ):
        raise BadImage(
            "a 16-bit TIFF with each color in a plane of its own is not read; save it interleaved"
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a loaded image in a mode that `profile.to_srgb` takes."""
    if image.has_transparency_data:
        return image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")
