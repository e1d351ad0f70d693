"""Aspect buckets: the few sizes that pictures of every shape are resized to, so that a batch is one tensor. Pure.

sizes(BucketConfig(resolution=768))  ->  ((512, 1024), (576, 960), ..., (1024, 512))   11 buckets
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raytrain.config import BucketConfig

Size = tuple[int, int]
"""Width and height in pixels."""


def sizes(config: BucketConfig) -> tuple[Size, ...]:
    """Return the buckets (width, height) of a config, narrowest first."""
    found = {(width, height) for width, height in config.sizes} or rule(
        config.resolution, config.step, config.max_ratio
    )
    return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))


def rule(resolution: int, step: int, max_ratio: float) -> set[Size]:
    """Return every bucket of at most resolution^2 pixels whose longer side is at most max_ratio times its shorter one.

    For each width that is a multiple of `step`, the height is the largest multiple of `step` within that area; both
    orientations are taken. The first width whose height would be beyond the ratio has it cut to the ratio, so that the
    most extreme allowed shape has a bucket of its own.
    """
    tall: set[Size] = set()
    for width in range(resolution, 0, -step):
        limit = width * max_ratio
        height = _floor(min(resolution**2 / width, limit), step)
        if all(width * other[1] < height * other[0] for other in tall):
            tall.add((width, height))
        if resolution**2 / width > limit:
            break
    for height in range(resolution, math.floor(resolution * max_ratio) + 1, step):
        width = _floor(resolution**2 / height, step)
        if width and height <= width * max_ratio:
            tall.add((width, height))
    return tall | {(height, width) for width, height in tall}


def nearest(width: int, height: int, buckets: Sequence[Size]) -> Size:
    """Return the bucket whose shape is closest to a picture's: least |log(ratio / bucket's ratio)|.

    The logarithm treats portrait and landscape alike. Of equally close buckets the largest wins.
    """
    ratio = math.log(width / height)
    return min(buckets, key=lambda size: (round(abs(math.log(size[0] / size[1]) - ratio), 9), -size[0] * size[1], size))


def _floor(value: float, step: int) -> int:
    return int(value) // step * step
