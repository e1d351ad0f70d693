"""Training alignment: how much each picture resembles the training pictures, its mean CLIP cosine with them.

High is what style training wants; high together with low text alignment or diversity is overfitting.
"""

from __future__ import annotations

from raytrain.evaluate.scorers import Better
from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Training-picture alignment"


def score(subject: Subject) -> list[float]:
    """Return N values, one a picture; their mean is the mean cosine over all N x R pairs."""
    if not subject.pictures or not len(subject.reference_embeddings):
        return []
    return [float(v) for v in (subject.picture_embeddings @ subject.reference_embeddings.T).mean(dim=1)]
