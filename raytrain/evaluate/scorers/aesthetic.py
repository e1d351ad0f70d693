"""Aesthetic rating: the mean rating people of an AVA-like survey would give,
predicted by a ResNet-50, over 10."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain.evaluate.scorers import Better

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

BETTER: Better = "higher"
LABEL = "Aesthetic rating"
READS = ("aesthetic",)
BATCH = 16


def score(subject: Subject) -> list[float]:
    """Return N ratings of about 0.1 to 1, one an image."""
    import torch

    from raytrain.aesthetic import prepare

    ratings: list[float] = []
    for start in range(0, len(subject.images), BATCH):
        pixels = torch.stack([prepare(image) for image in subject.images[start : start + BATCH]])
        with torch.inference_mode():
            ratings += [
                float(v) for v in subject.judges.aesthetic(pixels.to(subject.judges.device)).cpu()
            ]
    return ratings
