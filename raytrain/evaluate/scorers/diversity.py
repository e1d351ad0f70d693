"""Diversity: how much the pictures differ from each other, the mean of 1 - cos over all pairs of CLIP embeddings.

The published evaluation sums over the pairs but divides by N^2 instead of N(N-1)/2, so that more pictures score higher;
`evaluate.legacy` repeats it. Four pictures with all cosines 0.5 score 0.5, legacy 0.1875.
"""

from __future__ import annotations

from raytrain.evaluate.scorers import Better
from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Diversity"


def score(subject: Subject) -> list[float]:
    """Return N values, one a picture: its mean distance to the others. Their mean equals the mean over pairs."""
    embeddings = subject.picture_embeddings if subject.pictures else None
    if embeddings is None or len(embeddings) < 2:
        return []
    count = len(embeddings)
    distances = (1 - embeddings @ embeddings.T).fill_diagonal_(0)
    divisor = 2 * count if subject.config.evaluate.legacy else count - 1
    return [float(v) for v in distances.sum(dim=1) / divisor]
