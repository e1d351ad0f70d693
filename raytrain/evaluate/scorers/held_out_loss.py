"""Held-out loss: the denoising loss on images kept out of training,
always with the same noise and timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain.evaluate.scorers import Better

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

BETTER: Better = "lower"
LABEL = "Held-out loss"
READS = ("timesteps", "max_held_out")


def score(subject: Subject) -> list[float]:
    """Return one loss a held-out image; empty where the subject brings no denoiser."""
    return [float(v) for v in subject.held_out()] if subject.held_out else []
