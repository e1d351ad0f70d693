"""A hand-made image that belongs to another one: its mask or its control image,
brought to that image's size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from raytrain.data.image.image import BadImage


def fit(companion: Image.Image, size: tuple[int, int], what: str) -> Image.Image:
    """Return the companion as viewed, resized (bilinear) to `size` (width, height)
    where it shows the same view.

    It does so when both could be one image resized, each side rounded up or down to whole pixels;
    otherwise BadImage, because a companion stretched or cut would belong to other places of the
    image.
    """
    turned = ImageOps.exif_transpose(companion)
    if turned.size == size:
        return turned
    (width, height), (across, down) = size, turned.size
    if (across - 1) * height < (down + 1) * width and (down - 1) * width < (across + 1) * height:
        return turned.resize(size, Image.Resampling.BILINEAR)
    raise BadImage(
        f"its {what} is {across}x{down} and the image {width}x{height}: another shape, so they do "
        "not show the same view"
    )


def gray(image: Image.Image) -> Image.Image:
    """Return luminance (ITU-R BT.601) in 8 bits, mode L; 16-bit gray is scaled, not clipped."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadImage("a floating-point image has no defined white; convert it to 8 or 16 bits")
    return image.convert("L")
