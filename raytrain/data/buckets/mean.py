"""Rule `mean`: one size for all images, of the mean of their ratios (edenartlab/sd-lora-trainer).

With r the mean of width / height: width = sqrt(resolution^2 * r) and height = resolution^2 /
width, each rounded to the nearest multiple of the step.
"""

from __future__ import annotations

import math

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Fit, Listed, Rule, Size, by_logarithm, no_choice
from raytrain.errors import UserError

NEEDS_MEAN = True
IGNORES = ("max_ratio",)


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Rule:
    """Build the rule at one resolution; without the mean it knows its possible sizes but fits no
    image."""
    if config.min_side or config.max_side:
        raise UserError(
            f"data.buckets rule 'mean' takes no side limits, got min_side={config.min_side}, "
            f"max_side={config.max_side}; its one size follows from the images. Remove them, or "
            "choose another rule."
        )
    if config.sizes:
        return Listed(config.sizes, logarithm=by_logarithm(config, auto=True))
    no_choice(config, "rule 'mean' has one size")
    if mean_ratio is not None:
        return Listed([size_for(mean_ratio, resolution, config.step)], logarithm=True)
    return Unknown(resolution, config.step)


def size_for(ratio: float, resolution: int, step: int) -> Size:
    """Return the size of a ratio; the shorter side is at least one step."""
    area = resolution**2
    width = min(max(math.sqrt(area * ratio), step), area / step)
    return _nearest(width, step), _nearest(area / width, step)


class Unknown:
    """Before the mean is known: every size that some mean would give."""

    def __init__(self, resolution: int, step: int) -> None:
        area, half = resolution**2, step / 2
        found = set()
        for width in range(step, _nearest(area / step, step) + 1, step):
            least = _nearest(area / (width + half), step)
            most = _nearest(area / (width - half), step)
            found |= {(width, height) for height in range(least, most + 1, step)}
        self.sizes: tuple[Size, ...] = tuple(sorted(found))

    def fit(self, width: int, height: int) -> Fit | None:
        """Raise ValueError: the mean has to be known first."""
        raise ValueError(
            "the bucket rule 'mean' fits no image before the mean of width / height is known"
        )


def _nearest(value: float, step: int) -> int:
    return max(step, step * round(value / step))
