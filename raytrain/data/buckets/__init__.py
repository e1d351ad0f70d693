"""Aspect buckets: the few sizes that images of every shape are resized and cut to,
so that a batch is one tensor. Pure.

One rule a file; the file's name is its name in `[data.buckets] rule`. A rule module offers
    NEEDS_MEAN: bool                    optional, default False: `mean_ratio` is needed (see
                                        `needs_mean`)
    IGNORES: tuple[str, ...]            optional: keys of the table that only other rules read
    build(config: BucketConfig, resolution: int, mean_ratio: float | None) -> Rule
where a Rule has
    sizes: tuple[Size, ...]             every bucket it can produce, (width, height) in pixels,
                                        multiples of config.step
    fit(width, height) -> Fit | None    the image's bucket, enlarged where need be; None rejects
                                        the image
`config.sizes`, where given, replaces the sizes of a rule; its way of choosing among them stays.

    fits(1200, 800, BucketConfig(resolution=768))  ->  (Fit(bucket=(896, 640), resized=(960,
                                                       640)),)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import cast

from raytrain import plugins
from raytrain.config.data import BucketConfig
from raytrain.data.buckets._listed import Fit, Rule, Size, cover
from raytrain.errors import UserError

__all__ = ["Fit", "Rule", "Size", "all_sizes", "fits", "needs_mean"]


def needs_mean(config: BucketConfig) -> bool:
    """Whether the rule needs the mean of width / height over all images before it can
    fit any."""
    return not config.sizes and bool(
        getattr(plugins.load("data.buckets", config.rule), "NEEDS_MEAN", False)
    )


def all_sizes(config: BucketConfig, mean_ratio: float | None = None) -> tuple[Size, ...]:
    """Return every bucket (width, height) the rule can produce, narrowest first.

    The list is complete for every rule. Where a bucket depends on the image (`kohya` without
    enlarging) or on the whole set (`mean` before its mean is known) it is long, and most of it
    never comes up.
    """
    found = {size for rule in _rules(config, mean_ratio) for size in rule.sizes}
    return tuple(sorted(found, key=lambda size: (size[0] / size[1], size)))


def fits(
    width: int, height: int, config: BucketConfig, mean_ratio: float | None = None
) -> tuple[Fit, ...]:
    """Return the buckets of an image of this size, as viewed: one for each resolution,
    the smallest first.

    Resolutions above the smallest count only if the image need not be enlarged for them. With
    `upscale = false` a image smaller than its bucket goes to the largest bucket it covers; if
    there is none, it has no fit at all.
    """
    found: dict[Size, Fit] = {}
    for number, rule in enumerate(_rules(config, mean_ratio)):
        fit = rule.fit(width, height)
        if fit is not None and (fit.resized[0] > width or fit.resized[1] > height):
            if number > 0:
                continue
            if not config.upscale:
                fit = _covered(width, height, rule.sizes)
        if fit is not None:
            found.setdefault(fit.bucket, fit)
    return tuple(found.values())


def _covered(width: int, height: int, sizes: tuple[Size, ...]) -> Fit | None:
    """Return the largest size that an image covers as it is; of equally large ones the one that
    keeps most of it."""
    inside = [
        (size, cover(width, height, size))
        for size in sizes
        if size[0] <= width and size[1] <= height
    ]
    best = max(
        inside, key=lambda pair: (pair[0][0] * pair[0][1], -pair[1][0] * pair[1][1]), default=None
    )
    return Fit(*best) if best else None


@lru_cache(maxsize=64)
def _rules(config: BucketConfig, mean_ratio: float | None) -> tuple[Rule, ...]:
    """Build the rule at each resolution, the smallest first."""
    _check(config)
    module = plugins.load("data.buckets", config.rule)
    resolutions = sorted(set(config.resolutions or (config.resolution,)))
    rules = tuple(
        cast(Rule, module.build(config, resolution, mean_ratio)) for resolution in resolutions
    )
    for resolution, rule in zip(resolutions, rules, strict=True):
        if not rule.sizes:
            raise UserError(
                f"data.buckets must leave at least one size, got none for rule={config.rule!r}, "
                f"resolution={resolution}, step={config.step}, min_side={config.min_side}, "
                f"max_side={config.max_side}; no image could be prepared. Widen min_side and "
                "max_side, or choose a smaller step."
            )
    return rules


def _check(config: BucketConfig) -> None:
    """Raise UserError for settings that contradict each other."""
    if config.sizes and config.resolutions:
        raise UserError(
            f"data.buckets takes sizes or resolutions, got sizes={config.sizes} and "
            f"resolutions={config.resolutions}; one list of sizes has no second resolution. Put "
            "the sizes of every resolution into sizes, or remove one."
        )
    least, most = config.min_side or 0, config.max_side or math.inf
    for side in () if config.sizes else config.resolutions or (config.resolution,):
        if not least <= side <= most:
            raise UserError(
                "data.buckets.resolution must lie between min_side and max_side, got "
                f"resolution={side}, min_side={config.min_side}, max_side={config.max_side}; the "
                "square bucket would be none of the sizes. Change the resolution or the two "
                "limits."
            )
