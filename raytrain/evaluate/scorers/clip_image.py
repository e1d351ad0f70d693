"""Training alignment: how much each image resembles the training images,
its mean CLIP cosine with them.

High is what style training wants; high together with low text alignment or diversity is
overfitting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain.evaluate.scorers import Better

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Training-image alignment"
READS = ("clip", "max_references")


def score(subject: Subject) -> list[float]:
    """Return N values, one an image; their mean is the mean cosine over all N x R pairs."""
    if not subject.images or not len(subject.reference_embeddings):
        return []
    return [
        float(v) for v in (subject.image_embeddings @ subject.reference_embeddings.T).mean(dim=1)
    ]
