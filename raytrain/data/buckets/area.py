"""Rule `area`: sizes of about one area whose sides differ by at most `max_ratio`;
the closest shape by logarithm.

The idea is that of laksjdjf/sd-trainer's bucketing (multiples of a step, as high as the area
allows, both orientations, 11 sizes at 768 and 13 at 1024), with its two side limits replaced by
the ratio they stand for. Its own rule, limits and all, is `sd_trainer`.
"""

from __future__ import annotations

import math

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Listed, Size, by_logarithm


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Listed:
    """Build the rule at one resolution; of equally close sizes the largest wins."""
    found = set(config.sizes) or _sizes(config, resolution)
    ordered = sorted(found, key=lambda size: (-size[0] * size[1], size))
    return Listed(ordered, logarithm=by_logarithm(config, auto=True))


def _sizes(config: BucketConfig, resolution: int) -> set[Size]:
    """Return every bucket of at most resolution^2 pixels whose longer side is at most max_ratio
    times its shorter one.

    For each width that is a multiple of `step`, the height is the largest multiple of `step`
    within that area; both orientations are taken. The first width whose height would be beyond the
    ratio has it cut to the ratio, so that the most extreme allowed shape has a bucket of its own.
    No side is below `min_side` or above `max_side`.
    """
    area, step, most = resolution**2, config.step, config.max_side or math.inf
    tall: set[Size] = set()
    for width in range(_floor(min(resolution, most), step), 0, -step):
        limit = width * config.max_ratio
        height = _floor(min(area / width, limit, most), step)
        if all(width * other[1] < height * other[0] for other in tall):
            tall.add((width, height))
        if min(area / width, most) > limit:
            break
    for height in range(
        resolution, math.floor(min(resolution * config.max_ratio, most)) + 1, step
    ):
        width = _floor(area / height, step)
        if width and height <= width * config.max_ratio:
            tall.add((width, height))
    kept = {size for size in tall if size[0] >= (config.min_side or 0)}
    return kept | {(height, width) for width, height in kept}


def _floor(value: float, step: int) -> int:
    return int(value) // step * step
