"""Rule `fixed`: the nine sizes of one list, scaled to the resolution;
the closest ratio by difference.

The list and the choice are those of SongwuJob/simple-SD-trainer, made for 1024. The image is cut
to the bucket, which that trainer leaves out, so its images of one bucket differ in size.
"""

from __future__ import annotations

from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Listed, Size, by_logarithm

IGNORES = ("max_ratio",)

AT_1024 = (
    (1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216),
    (1344, 768), (768, 1344), (1280, 768), (768, 1280),
)  # fmt: skip


def build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Listed:
    """Build the rule at one resolution; of equally close sizes the first of the list wins."""
    sizes = config.sizes or _sizes(config, resolution)
    return Listed(sizes, logarithm=by_logarithm(config, auto=False))


def _sizes(config: BucketConfig, resolution: int) -> list[Size]:
    """Scale the list; sides are rounded down to the step, so that no size has more pixels than its
    share."""
    scaled = [_scale(size, resolution, config.step) for size in AT_1024]
    least, most = config.min_side or 1, config.max_side or max(max(size) for size in scaled)
    return [size for size in scaled if least <= min(size) and max(size) <= most]


def _scale(size: Size, resolution: int, step: int) -> Size:
    return size[0] * resolution // 1024 // step * step, size[1] * resolution // 1024 // step * step
