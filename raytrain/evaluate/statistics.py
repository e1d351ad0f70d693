"""Means with bootstrap intervals, and paired comparison of two models on the same samples.

Intervals are bias-corrected and accelerated bootstrap (Efron 1987, "Better Bootstrap Confidence
Intervals"), seeded, so the same values always give the same interval. They speak of other prompts
and seeds like these, not of other training runs.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from raytrain.evaluate.scorers import Better

Outcome = Literal["better", "worse", "unclear"]
EXACT_PAIRS = 13
"""Up to this many pairs every choice of signs is tried, beyond it FLIPS random ones."""
FLIPS = 9999
MAX_JACKKNIFE = 2000
"""More values than this get the percentile interval: BCa's jackknife needs memory of count^2."""


@dataclass(frozen=True)
class Score:
    """A scorer's mean over its samples, with the confidence interval of the mean."""

    mean: float
    low: float
    high: float
    count: int
    """Samples; with a single one there is no interval and low = mean = high."""
    better: Better
    label: str

    def values(self) -> dict[str, Any]:
        """Return the JSON-able fields."""
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Tuned minus base, sample by sample, with its interval and what that means."""

    mean: float
    low: float
    high: float
    count: int
    base: float
    """The base model's mean over the same samples."""
    outcome: Outcome
    """`better` or `worse` when the interval excludes zero and `chance` is small;
    else `unclear`."""
    better: Better
    label: str

    def values(self) -> dict[str, Any]:
        """Return the JSON-able fields."""
        return asdict(self)


def summarize(
    values: Sequence[float],
    better: Better,
    label: str,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Score:
    """Return the mean of N values with its bootstrap interval;
    a value that is no number makes all three nan."""
    mean, low, high = interval(values, resamples, confidence, seed)
    return Score(mean, low, high, len(values), better, label)


def compare(
    base: Sequence[float],
    tuned: Sequence[float],
    better: Better,
    label: str,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Compare two models on the same N samples: interval and sign-flip test of their N
    differences, which must agree.

    The bootstrap alone is too sure of itself with few samples; five pairs or fewer never decide at
    95 %.
    """
    if len(base) != len(tuned):
        raise ValueError(
            f"paired comparison needs equally many values, got {len(base)} and {len(tuned)} for "
            f"{label!r}"
        )
    differences = [t - b for b, t in zip(base, tuned, strict=True)]
    mean, low, high = interval(differences, resamples, confidence, seed)
    outcome: Outcome = "unclear"
    if (low > 0 or high < 0) and chance(differences, seed) < 1 - confidence:
        outcome = "better" if (low > 0) == (better == "higher") else "worse"
    return Difference(
        mean, low, high, len(differences), float(numpy.mean(base)), outcome, better, label
    )


def chance(differences: Sequence[float], seed: int = 0) -> float:
    """Return how often random signs give N differences a mean this far from 0
    (Fisher's randomization test, 1935)."""
    data: NDArray[numpy.float64] = numpy.asarray(differences, dtype=numpy.float64)
    observed = abs(data.sum()) * (1 - 1e-9)
    if len(data) <= EXACT_PAIRS:
        signs = numpy.array(list(itertools.product((-1.0, 1.0), repeat=len(data))))
        return float((abs(signs @ data) >= observed).mean())
    random = numpy.random.default_rng(seed)
    hits = sum(abs(random.choice((-1.0, 1.0), len(data)) @ data) >= observed for _ in range(FLIPS))
    return float((hits + 1) / (FLIPS + 1))


def interval(
    values: Sequence[float], resamples: int, confidence: float, seed: int
) -> tuple[float, float, float]:
    """Return mean, low and high of N >= 1 values; equal values and single ones have an interval of
    no width."""
    if not values:
        raise ValueError("an interval needs at least one value")
    data: NDArray[numpy.float64] = numpy.asarray(values, dtype=numpy.float64)
    mean = float(data.mean())
    if not math.isfinite(mean):
        return math.nan, math.nan, math.nan
    if len(data) == 1 or float(data.max() - data.min()) <= 1e-12 * max(1.0, abs(mean)):
        return mean, mean, mean
    from scipy import stats  # a second of imports that only an evaluation needs

    methods = ("BCa", "percentile") if len(data) <= MAX_JACKKNIFE else ("percentile",)
    for method in methods:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # BCa warns where it has no answer; the percentile interval then serves
            found = stats.bootstrap(
                (data,),
                numpy.mean,
                n_resamples=resamples,
                confidence_level=confidence,
                method=method,
                batch=max(1, 4_000_000 // len(data)),
                rng=numpy.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(found.low) and math.isfinite(found.high):
            return mean, float(found.low), float(found.high)
    return mean, mean, mean
