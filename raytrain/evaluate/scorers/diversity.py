"""Diversity: how much the images differ from each other, the mean of 1 - cos over all pairs of
CLIP embeddings.

The published evaluation sums over the pairs but divides by N^2 instead of N(N-1)/2, so that more
images score higher; `evaluate.legacy` repeats it. Four images with all cosines 0.5 score 0.5,
legacy 0.1875.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain.evaluate.scorers import Better

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Diversity"
READS = ("clip", "legacy")


def score(subject: Subject) -> list[float]:
    """Return N values, one an image, whose mean is the mean over pairs;
    two images are one pair and one value.

    A pair belongs to two images, so the images' mean distances to the others vary half as much as
    is honest for an interval. The values are therefore jackknife pseudo-values of the pair mean U
    (Efron & Stein 1981, "The Jackknife Estimate of Variance"): U + 2(N-1)/(N-2) (g_i - U), where
    g_i is image i's mean distance to the others.
    """
    count = len(subject.images)
    if count < 2:
        return []
    distances = (1 - subject.image_embeddings @ subject.image_embeddings.T).fill_diagonal_(0)
    if subject.config.evaluate.legacy:
        return [float(v) for v in distances.sum(dim=1) / (2 * count)]
    means = distances.sum(dim=1) / (count - 1)
    mean = means.mean()
    if count == 2:
        return [float(mean)]
    return [float(v) for v in mean + 2 * (count - 1) / (count - 2) * (means - mean)]
