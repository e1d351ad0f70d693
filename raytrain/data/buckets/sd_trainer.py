"""Rule `sd_trainer`: the buckets of laksjdjf/sd-trainer; the closest ratio by difference.

For each width from `min_side` (512) in steps of `step` (its 64) up to `max_side` (2048), the
height is the largest multiple of the step within resolution^2 pixels, at most `max_side`; sizes
within `max_ratio` (2) are kept, both orientations, and the square. That gives 11 sizes at 768 with
max_side = 1024, its first defaults, and 13 at 1024, its present ones. Unlike in rule `area` a
height may fall below `min_side`, and the most extreme shape may have no size of its own.
"""

from __future__ import annotations

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Fit, Listed, Size, by_logarithm


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> SdTrainer:
    """Build the rule at one resolution; of equally close sizes the narrowest wins."""
    sizes = set(config.sizes) or _sizes(config, resolution)
    ordered = sorted(sizes, key=lambda size: (size[0] / size[1], size))
    return SdTrainer(ordered, logarithm=by_logarithm(config, auto=False))


class SdTrainer(Listed):
    """A closed list; the side that is not fitted is rounded down."""

    def fit(self, width: int, height: int) -> Fit:
        """Return the closest size and the resize that covers it."""
        bucket = self.nearest(width, height)
        if bucket[0] * height <= width * bucket[1]:
            return Fit(bucket, (width * bucket[1] // height, bucket[1]))
        return Fit(bucket, (bucket[0], height * bucket[0] // width))


def _sizes(config: BucketConfig, resolution: int) -> set[Size]:
    step, most = config.step, config.max_side or 2048
    found = {(resolution, resolution)}
    least = -(-(config.min_side or 512) // step) * step
    for width in range(least, most + 1, step):
        height = min(most // step * step, resolution**2 // width // step * step)
        if height and 1 / config.max_ratio <= width / height <= config.max_ratio:
            found |= {(width, height), (height, width)}
    return found
