"""Rule `kohya`: the buckets of kohya-ss/sd-scripts, with enlarging and without;
the closest ratio by difference.

With enlarging, a closed list: for each width from min_side to max_side (256 and 1024 by default),
the height is the largest multiple of the step within the area, both orientations, and the square.

Without (`upscale = false`, its `bucket_no_upscale`), no list: an image of at most the area keeps
its size, a larger one is shrunk to the area with one side on a multiple of the step, whichever
distorts the ratio less; then both sides are cut down to the step. sd-scripts ignores its side
limits there. Here they hold where they are given: a bucket with a side below `min_side` is none,
and one with a side above `max_side` is cut to it.
"""

from __future__ import annotations

import math

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Fit, Listed, Rule, Size, by_logarithm, no_choice
from raytrain.errors import UserError

IGNORES = ("max_ratio",)


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Rule:
    """Build the rule at one resolution; of equally close sizes the narrowest wins."""
    if config.sizes or config.upscale:
        sizes = sorted(config.sizes) or _sizes(config, resolution)
        return Exact(sizes, logarithm=by_logarithm(config, auto=False))
    no_choice(config, "without enlarging, rule 'kohya' keeps every image's own size")
    return Own(config, resolution)


class Exact(Listed):
    """A closed list; sides are rounded half up, and an image that has the size of a bucket goes
    there."""

    def __init__(self, sizes: list[Size], *, logarithm: bool) -> None:
        super().__init__(sizes, logarithm=logarithm)
        self._known = frozenset(self.sizes)

    def fit(self, width: int, height: int) -> Fit:
        """Return the closest size and the resize that covers it."""
        bucket = (width, height) if (width, height) in self._known else self.nearest(width, height)
        by_height = width / height > bucket[0] / bucket[1]
        scale = bucket[1] / height if by_height else bucket[0] / width
        return Fit(bucket, (_round(width * scale), _round(height * scale)))


class Own:
    """Every image in its own size, at most the area, cut down to the step."""

    def __init__(self, config: BucketConfig, resolution: int) -> None:
        self._area, self._step = resolution**2, config.step
        self._least, self._most = config.min_side or config.step, config.max_side
        self.sizes = self._all()

    def fit(self, width: int, height: int) -> Fit | None:
        """Return the image's own size, shrunk to the area, as a bucket;
        None where a side falls below the least."""
        resized = (width, height) if width * height <= self._area else self._shrink(width, height)
        bucket = self._limit(resized[0]), self._limit(resized[1])
        return Fit(bucket, resized) if min(bucket) >= self._least else None

    def _shrink(self, width: int, height: int) -> Size:
        ratio = width / height
        wide = math.sqrt(self._area * ratio)
        across, down = self._floor(_round(wide)), self._floor(_round(self._area / wide))
        if not across or not down:  # a strip thinner than a step; sd-scripts divides by zero
            return across, down
        its_height, its_width = (
            self._floor(_round(across / ratio)),
            self._floor(_round(down * ratio)),
        )
        error_across = abs(across / its_height - ratio) if its_height else math.inf
        if error_across < abs(its_width / down - ratio):
            return across, _round(across / ratio)
        return _round(down * ratio), down

    def _limit(self, side: int) -> int:
        return self._floor(min(side, self._most) if self._most else side)

    def _floor(self, side: int) -> int:
        return side // self._step * self._step

    def _all(self) -> tuple[Size, ...]:
        """Enumerate: within the area, one more pixel a side for the rounding."""
        step, least = self._step, -(-self._least // self._step) * self._step
        longest = self._limit(self._area // (least - 1) + 1)
        return tuple(
            (width, height)
            for width in range(least, longest + 1, step)
            for height in range(least, self._limit(self._area // (width - 1) + 1) + 1, step)
        )


def _sizes(config: BucketConfig, resolution: int) -> list[Size]:
    least, most, step = config.min_side or 256, config.max_side or 1024, config.step
    if not least <= resolution <= most:
        raise UserError(
            "data.buckets.resolution must lie between the sides of rule 'kohya', got "
            f"{resolution} for {least} to {most} (its own limits are 256 to 1024); the square "
            "bucket would be none of the sizes. Set min_side and max_side."
        )
    least, most = -(-least // step) * step, most // step * step
    found = {(resolution, resolution)}
    for width in range(least, most + 1, step):
        height = min(most, resolution**2 // width // step * step)
        if height >= least:
            found |= {(width, height), (height, width)}
    return sorted(found)


def _round(value: float) -> int:
    return int(value + 0.5)
