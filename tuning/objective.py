"""The objective: one number out of a trial's scores, larger is better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from raytrain.errors import UserError, nearest

WORST = -math.inf
"""The objective of a trial that has no finite score."""


def value(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> float:
    """Return the weighted sum of scores; a missing or non-finite one makes it `WORST`."""
    total = 0.0
    for name, weight in weights.items():
        score = scores.get(name)
        if score is None or not math.isfinite(score):
            return WORST
        total += weight * score
    return total if math.isfinite(total) else WORST


def check_measured(scores: Mapping[str, float | None], weights: Mapping[str, float]) -> None:
    """Raise UserError where a weighted score was not measured, or is no finite number."""
    for name, weight in weights.items():
        score = scores.get(name)
        if weight and (score is None or not math.isfinite(score)):
            raise UserError(
                f"tune.objective weighs the score {name!r}, which was "
                f"{'not measured' if score is None else score}: every trial would be worst. The "
                "scorer may not apply (diversity needs two images, held_out_loss a held-out one). "
                "Weigh other scores, or give it what it needs."
            )


def check(weights: Mapping[str, float], scorers: Sequence[str], held_out: float) -> None:
    """Raise UserError unless every weighted score is one that the evaluation computes;
    `held_out` is the share of images kept out of training."""
    names = [scorer.split(".")[-1] for scorer in scorers]
    if not any(weights.values()):
        raise UserError("tune.objective needs at least one score with a weight other than 0.")
    for name, weight in weights.items():
        if name == "held_out_loss" and weight and not held_out:
            raise UserError(
                "tune.objective weighs 'held_out_loss', but data.held_out = 0 keeps no image out "
                "of training: no trial would have a score. Set data.held_out, for instance to "
                "0.1, and prepare again, or weigh other scores."
            )
        if name not in names and name not in scorers:
            guess = nearest(name, names)
            hint = f" Did you mean {guess!r}?" if guess else f" Add {name!r} to evaluate.scorers."
            raise UserError(
                f"tune.objective weighs the score {name!r}, which evaluate.scorers does not "
                f"compute; every trial would be worst.{hint} Computed: {', '.join(names)}."
            )
