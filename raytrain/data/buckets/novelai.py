"""Rule `novelai`: the buckets of NovelAI's manager; the closest ratio by logarithm,
extreme shapes left out.

Bucket areas reach one and a half times the resolution's square (its 768 x 512 for a base of 512):
for each width the largest height within the area and for each height the largest width, and the
base square. Its limits at 512 are sides of 256 to 2048; they grow with the resolution. It compares
ratios by difference, in which portraits are distinguished less finely than landscapes and only
landscapes can be too extreme; here both are treated alike (`nearest = "difference"` compares as
it does).

What its manager also does, dealing batches to ranks and putting the rows that fill no batch into
the base bucket, is up to the batch sampler: every row is dealt there exactly once, in its own
bucket.
"""

from __future__ import annotations

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Fit, Listed, Size, by_logarithm

IGNORES = ("max_ratio",)

LARGEST_ERROR = 4
"""Images whose longer side / shorter side differs from their bucket's by this much or more are
left out."""


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Manager:
    """Build the rule at one resolution; of equally close sizes the narrowest and then the tallest
    wins."""
    sizes = set(config.sizes) or _sizes(config, resolution)
    ordered = sorted(sizes, key=lambda size: (size[0], -size[1]))
    return Manager(ordered, logarithm=by_logarithm(config, auto=True))


class Manager(Listed):
    """A closed list that refuses shapes far beyond its most extreme ones."""

    def fit(self, width: int, height: int) -> Fit | None:
        """Return the closest size; None for a shape too far from it."""
        fit = super().fit(width, height)
        assert fit is not None
        error = abs(_longer(width, height) - _longer(*fit.bucket))
        return fit if error < LARGEST_ERROR else None


def _sizes(config: BucketConfig, resolution: int) -> set[Size]:
    step, area = config.step, resolution * (resolution * 3 // 2)
    least = -(-(config.min_side or resolution // 2) // step) * step
    most = config.max_side or 4 * resolution
    found = {(resolution, resolution)}
    for side in range(least, most + 1, step):
        other = least + (min(area // side, most) - least) // step * step
        if other >= least:
            found |= {(side, other), (other, side)}
    return found


def _longer(width: int, height: int) -> float:
    return max(width, height) / min(width, height)
