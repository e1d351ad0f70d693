"""What the figures say, in sentences: is the tuned model better, and has it overfitted?

Pure functions. The rule is the one users of the published evaluation read by eye: high training
alignment together with falling text alignment or diversity is memorizing; so is a held-out loss
that rises while training continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raytrain.evaluate.statistics import Difference

State = Literal["healthy", "overfit", "worse", "unknown"]
RISE = 0.02
"""A held-out loss this share above its lowest has risen; with fixed noise and timesteps less is
rarely significant."""
FALL = 0.05
"""Text alignment this share below its best has fallen."""
LOST_DIVERSITY = 1 / 3
"""Tuning to a style narrows the images; losing more than this share of the diversity is
memorizing."""


@dataclass(frozen=True)
class Verdict:
    """A state, the sentence for people, and the step with the best held-out loss,
    where there is a curve."""

    state: State
    sentence: str
    best_step: int | None = None

    def values(self) -> dict[str, Any]:
        """Return the JSON-able fields."""
        return {"state": self.state, "sentence": self.sentence, "best_step": self.best_step}


def overfit(
    history: Sequence[Mapping[str, Any]], differences: Mapping[str, Difference] | None = None
) -> Verdict:
    """Judge rows of metrics ({"step", "held_out_loss", ...}) and base-to-tuned differences by
    scorer name."""
    curve = series(history, "held_out_loss")
    lowest = min(curve, key=lambda point: point[1]) if curve else None
    best_step = lowest[0] if lowest else None
    if curve and lowest and curve[-1][1] > lowest[1] * (1 + RISE):
        rise = f"{curve[-1][1] / lowest[1] - 1:.0%}"
        if lowest[0] == curve[0][0]:
            return Verdict(
                "worse",
                f"The held-out loss never fell below its start and ended {rise} above it: "
                "training made the model worse. Try a lower learning rate.",
                best_step,
            )
        return Verdict(
            "overfit",
            f"The held-out loss was lowest at step {lowest[0]} and has risen {rise} since: the "
            f"model is overfitting. Use the checkpoint near step {lowest[0]}, or train for fewer "
            "steps.",
            best_step,
        )
    memorized = _memorized(history, differences or {})
    if memorized:
        return Verdict(
            "overfit",
            f"The images resemble the training images more while {memorized}: the model is "
            "memorizing, unless the prompts leave out what it learns, such as a style. Train for "
            "fewer steps, or on more images.",
            best_step,
        )
    if len(curve) >= 2:
        fall = 1 - curve[-1][1] / curve[0][1]
        return Verdict(
            "healthy", f"The held-out loss fell {fall:.0%} and shows no overfitting.", best_step
        )
    if differences:
        return Verdict("healthy", "The scores show no overfitting.", best_step)
    return Verdict(
        "unknown", "There are too few measurements to tell whether the model overfits.", best_step
    )


def headline(differences: Mapping[str, Difference]) -> str:
    """Say in one sentence on which scores the tuned model is better or worse than the base
    model."""
    if not differences:
        return "The tuned model has not been compared with the base model."
    groups = {
        o: [d.label.lower() for d in differences.values() if d.outcome == o]
        for o in ("better", "worse", "unclear")
    }
    better, worse, unclear = groups["better"], groups["worse"], groups["unclear"]
    if not better and not worse:
        return (
            "No score tells the tuned model from the base model; more prompts or more training "
            "would."
        )
    sentence = ""
    if better:
        sentence = f"The tuned model beats the base model on {_list(better)}"
        if worse:
            sentence += f" and loses on {_list(worse)}"
    else:
        sentence = f"The tuned model is worse than the base model on {_list(worse)}"
    return sentence + (
        f"; {_list(unclear)} {'is' if len(unclear) == 1 else 'are'} undecided." if unclear else "."
    )


def series(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """Return the (step, value) pairs of one metric by step; of a step measured twice
    (a resumed run) the later."""
    points: dict[int, float] = {}
    for row in history:
        value = row.get(key)
        if (
            isinstance(value, int | float)
            and math.isfinite(value)
            and isinstance(row.get("step"), int)
        ):
            points[int(row["step"])] = float(value)
    return sorted(points.items())


def _memorized(history: Sequence[Mapping[str, Any]], differences: Mapping[str, Difference]) -> str:
    image, text, diversity = (
        differences.get(name) for name in ("clip_image", "clip_text", "diversity")
    )
    if not (
        _rose(series(history, "clip_image")) or (image is not None and image.outcome == "better")
    ):
        return ""
    if _fell(series(history, "clip_text"), FALL) or (text is not None and text.outcome == "worse"):
        return "following their prompts less"
    lost = (
        diversity is not None
        and diversity.outcome == "worse"
        and -diversity.mean > LOST_DIVERSITY * diversity.base
    )
    return (
        "differing less from each other"
        if lost or _fell(series(history, "diversity"), LOST_DIVERSITY)
        else ""
    )


def _rose(curve: Sequence[tuple[int, float]]) -> bool:
    return len(curve) >= 2 and curve[-1][1] > curve[0][1]


def _fell(curve: Sequence[tuple[int, float]], share: float) -> bool:
    return len(curve) >= 2 and curve[-1][1] < max(value for _, value in curve) * (1 - share)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
