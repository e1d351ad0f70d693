"""Colors by an image's ICC profile, converted to sRGB with LittleCMS. Pure.

Relative colorimetric with black point compensation. A profile that is broken, or made for other
channels than the image has, is ignored, as viewers do; so is one that means sRGB, so that such an
image keeps its very values.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

SAME = 2
"""Levels of 255: a profile that moves no color by more is sRGB itself,
as its makers rounded it."""
_SPACES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}
_EXACT = (
    ImageCms.Flags.NOOPTIMIZE
)  # the optimized way has 33 nodes, too few for the dark grays of a linear profile
_FLAGS = {
    mode: ImageCms.Flags.BLACKPOINTCOMPENSATION | (_EXACT if mode == "L" else 0)
    for mode in _SPACES.values()
}
_BROKEN = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an RGB(A), L, LA or CMYK image as RGB, or RGBA where it had transparency,
    with the colors its profile means."""
    transparent = image.mode in ("RGBA", "LA")
    mode, transform = _transform(profile) if profile else ("", None)
    gray, four = image.mode in ("L", "LA"), image.mode == "CMYK"
    if transform is None or four != (mode == "CMYK") or (mode == "L" and not gray):
        return image.convert("RGBA" if transparent else "RGB")
    result: Image.Image = transform.apply(image.convert(mode))
    if transparent:
        result.putalpha(image.getchannel("A"))
    return result


@functools.lru_cache(16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """Return the mode a profile is made for and the way from it to sRGB;
    None where there is nothing to convert."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip(), "")
        if not mode:
            return "", None
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=_FLAGS[mode],
        )
    except _BROKEN:
        return "", None
    if mode == "CMYK":
        return mode, transform
    colors = _probe(mode)
    difference = np.asarray(transform.apply(colors), np.int16) - np.asarray(
        colors.convert("RGB"), np.int16
    )
    return mode, transform if abs(difference).max() > SAME else None


def _probe(mode: str) -> Image.Image:
    """Return every gray, or 16 levels of each channel in all combinations."""
    levels = np.arange(0, 256, 1 if mode == "L" else 17).astype(np.uint8)
    if mode == "L":
        return Image.fromarray(levels[None])
    return Image.fromarray(np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3))
