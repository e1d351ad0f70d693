"""What the bucket rules share: a fit, the resize that covers a bucket,
and the closest of a list of sizes. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from raytrain.config.data import BucketConfig
from raytrain.errors import UserError

Size = tuple[int, int]
"""Width and height in pixels."""


class Fit(NamedTuple):
    """The bucket of an image, and the size the image is resized to before the bucket is cut out of
    it."""

    bucket: Size
    resized: Size
    """At least the bucket on both sides."""


class Rule(Protocol):
    """A rule at one resolution."""

    sizes: tuple[Size, ...]

    def fit(self, width: int, height: int) -> Fit | None:
        """Return the bucket of an image of this size, enlarged where need be;
        None if the rule has none for it."""
        ...


def by_logarithm(config: BucketConfig, *, auto: bool) -> bool:
    """Tell whether ratios are compared by logarithm, as a rule does on its own or as asked."""
    return auto if config.nearest == "auto" else config.nearest == "log"


def no_choice(config: BucketConfig, why: str) -> None:
    """Raise UserError for `nearest` where a rule chooses among no sizes."""
    if config.nearest != "auto":
        raise UserError(
            f"data.buckets.nearest = {config.nearest!r} has nothing to choose from: {why}. Leave "
            "it out, or give a list of sizes."
        )


def cover(width: int, height: int, bucket: Size) -> Size:
    """Return the smallest size of the image's shape that covers the bucket."""
    scale = max(bucket[0] / width, bucket[1] / height)
    return max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))


class Listed:
    """A closed list of sizes; an image goes to the one of the closest shape,
    of equally close ones to the first listed.

    How far two shapes are apart: the difference of their ratios width / height, or of the ratios'
    logarithms, which treats portrait and landscape alike (compared to nine decimals, so that a tie
    is one in both orientations).
    """

    def __init__(self, sizes: Iterable[Size], *, logarithm: bool) -> None:
        self.sizes = tuple(dict.fromkeys(sizes))
        self._logarithm = logarithm
        first: dict[float, tuple[int, Size]] = {}
        for place, size in enumerate(self.sizes):
            first.setdefault(self._measure(*size), (place, size))
        self._marks = sorted(first)
        self._first = [first[mark] for mark in self._marks]

    def nearest(self, width: int, height: int) -> Size:
        """Return the size of the closest shape."""
        mark = self._measure(width, height)
        after = bisect_left(self._marks, mark)
        if after == 0:
            return self._first[0][1]
        if after == len(self._marks):
            return self._first[-1][1]
        below, above = mark - self._marks[after - 1], self._marks[after] - mark
        if self._logarithm:
            below, above = round(below, 9), round(above, 9)
        return min((below, *self._first[after - 1]), (above, *self._first[after]))[2]

    def fit(self, width: int, height: int) -> Fit | None:
        """Return the closest size and the resize that covers it."""
        bucket = self.nearest(width, height)
        return Fit(bucket, cover(width, height, bucket))

    def _measure(self, width: int, height: int) -> float:
        return math.log(width / height) if self._logarithm else width / height
