"""A hand-made picture that belongs to another one: its mask or its control picture, brought to that picture's size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from raytrain.data.image.picture import BadPicture


def fit(companion: Image.Image, size: tuple[int, int], what: str) -> Image.Image:
    """Return the companion as viewed, resized (bilinear) to `size` (width, height) where it shows the same view.

    It does so when both could be one picture resized, each side rounded up or down to whole pixels; otherwise BadPicture, because
    a companion stretched or cut would belong to other places of the picture.
    """
    turned = ImageOps.exif_transpose(companion)
    if turned.size == size:
        return turned
    (width, height), (across, down) = size, turned.size
    if (across - 1) * height < (down + 1) * width and (down - 1) * width < (across + 1) * height:
        return turned.resize(size, Image.Resampling.BILINEAR)
    raise BadPicture(
        f"its {what} is {across}x{down} and the picture {width}x{height}: another shape, so they do not show the same view"
    )


def grey(picture: Image.Image) -> Image.Image:
    """Return luminance (ITU-R BT.601) in 8 bits, mode L; 16-bit grey is scaled, not clipped."""
    if picture.mode.startswith("I"):
        values = np.asarray(picture, dtype=np.int64)
        return Image.fromarray(((values.clip(0, 65535) + 128) // 257).astype(np.uint8))
    if picture.mode == "F":
        raise BadPicture("a floating-point picture has no defined white; convert it to 8 or 16 bits")
    return picture.convert("L")
