"""Apply a `Transform`: the pixels and the mask of one version of an image in its bucket. Pure."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from raytrain.data.buckets import Size
from raytrain.data.image.transform import Color, Inset, Transform

VERSION = "resize-mirror-cut-color-extend/1"
"""Names what `pixels` and `gray` do; part of every content address. Change it when the pixels
change."""

LARGEST = 2**26
"""Pixels of a whole resized image; beyond it (a strip a hundred times as long as wide)
only the window is resized."""


Filter = Literal["lanczos", "bicubic", "area"]
"""Of the resize; see `data.buckets.resample`."""


def pixels(
    image: Image.Image, transform: Transform, bucket: Size, resample: Filter = "lanczos"
) -> NDArray[np.uint8]:
    """Return the bucket's pixels (H, W, 3) of an RGB image.

    Lanczos and bicubic filters are Pillow's, which widen where they shrink; `area` is OpenCV's. An
    image of another size than the one the transform was made for (a control image) is brought to
    the same window.
    """
    inset = transform.inset
    window = (inset.width, inset.height) if inset else bucket
    shown = _window(image, transform, window, resample)
    if transform.color:
        shown = _recolor(shown, transform.color)
    if inset:
        shown = _extend(shown, inset, bucket)
    return np.asarray(shown)


def gray(layer: Image.Image, transform: Transform, bucket: Size, size: Size) -> NDArray[np.uint8]:
    """Return a mask (h, w) of `size` = (w, h), the latent's, showing the same part of the image as
    `pixels` does.

    `layer` is a mask of the whole image in any size. Every value is the mean over the area of its
    cell, pixels that it covers in part counted in part (Pillow's box filter counts them whole).
    What outpainting adds counts 0.
    """
    place = transform.placement
    inset = transform.inset or Inset(*bucket, 0, 0)
    levels = np.asarray(layer if layer.mode == "L" else layer.convert("L"), dtype=np.float32)
    down = _shares(
        size[1],
        bucket[1],
        inset.top,
        inset.height,
        place.top,
        place.resized_height,
        levels.shape[0],
    )
    across = _shares(
        size[0],
        bucket[0],
        inset.left,
        inset.width,
        place.left,
        place.resized_width,
        levels.shape[1],
    )
    if transform.flip:
        across = across[:, ::-1]
    return np.rint(down @ levels @ across.T).clip(0, 255).astype(np.uint8)


def center_of_mass(mask: NDArray[Any]) -> tuple[float, float]:
    """Return the center of mass (x, y) of a mask (H, W) with values 0..255,
    as fractions of its sides.

    Every pixel weighs 0.01 more than its value (edenartlab/sd-lora-trainer), so that a mask with
    next to nothing in it looks at the image's center, as an empty one does.
    """
    height, width = mask.shape
    columns = mask.sum(axis=0, dtype=np.float64) + 0.01 * height
    rows = mask.sum(axis=1, dtype=np.float64) + 0.01 * width
    x = float(columns @ (np.arange(width) + 0.5)) / (float(columns.sum()) * width)
    y = float(rows @ (np.arange(height) + 0.5)) / (float(rows.sum()) * height)
    return x, y


def _window(
    image: Image.Image, transform: Transform, window: Size, resample: Filter
) -> Image.Image:
    """Resize, mirror and cut."""
    place = transform.placement
    if place.resized_width * place.resized_height > LARGEST:
        box = _source_box(image.size, transform, window)
        shown = _resize(image, window, resample, box)
        return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if transform.flip else shown
    if image.size != place[:2]:
        image = _resize(image, place[:2], resample)
    left = place.resized_width - window[0] - place.left if transform.flip else place.left
    shown = image.crop((left, place.top, left + window[0], place.top + window[1]))
    return shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if transform.flip else shown


def _resize(
    image: Image.Image,
    size: Size,
    resample: Filter,
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """Resize an image, or the part of it in a box (left, top, right, bottom)."""
    if resample == "bicubic":
        return image.resize(size, Image.Resampling.BICUBIC, box)
    left, top, right, bottom = box or (0, 0, *image.size)
    if resample == "lanczos" or size[0] >= right - left or size[1] >= bottom - top:
        return image.resize(size, Image.Resampling.LANCZOS, box)
    if box:  # OpenCV cuts at whole pixels alone
        return image.resize(size, Image.Resampling.BOX, box)
    return Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA))


def _source_box(
    size: Size, transform: Transform, window: Size
) -> tuple[float, float, float, float]:
    """Return the part (left, top, right, bottom) of an image of any size, not mirrored,
    that the window shows."""
    place = transform.placement
    left = place.resized_width - window[0] - place.left if transform.flip else place.left
    across, down = size[0] / place.resized_width, size[1] / place.resized_height
    right, bottom = (
        min(size[0], (left + window[0]) * across),
        min(size[1], (place.top + window[1]) * down),
    )
    return left * across, place.top * down, right, bottom


def _shares(
    cells: int, bucket: int, start: int, shown: int, cut: int, resized: int, length: int
) -> NDArray[np.float32]:
    """Return how much of each cell of a bucket's side comes from each pixel of a layer's side:
    (cells, length).

    On this side the bucket shows `shown` pixels from `start` on, which begin at `cut` of the
    `resized` layer.
    """
    edges = np.linspace(0, bucket, cells + 1).clip(start, start + shown)
    edges = (edges - start + cut) * (length / resized)
    pixel = np.arange(length)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (covered.clip(0) * (resized / length * cells / bucket)).astype(np.float32)


def _recolor(image: Image.Image, color: Color) -> Image.Image:
    turn = round(color.hue * 256)
    if turn:
        hue, saturation, value = image.convert("HSV").split()
        hue = hue.point([(level + turn) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    image = ImageEnhance.Brightness(image).enhance(color.brightness)
    image = ImageEnhance.Contrast(image).enhance(color.contrast)
    image = ImageEnhance.Color(image).enhance(color.saturation)
    return image.filter(ImageFilter.GaussianBlur(1)) if color.blur else image


def _extend(image: Image.Image, inset: Inset, bucket: Size) -> Image.Image:
    """Paste an image on its own reflection over the whole bucket,
    blurred by a 32nd of the bucket's shorter side."""
    beyond = (
        (inset.top, bucket[1] - inset.height - inset.top),
        (inset.left, bucket[0] - inset.width - inset.left),
        (0, 0),
    )
    reflected = Image.fromarray(np.pad(np.asarray(image), beyond, mode="symmetric"))
    whole = reflected.filter(ImageFilter.GaussianBlur(min(bucket) / 32))
    whole.paste(image, (inset.left, inset.top))
    return whole
