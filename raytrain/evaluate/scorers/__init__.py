"""Scorers: one way of judging a file; the file name is the name in `evaluate.scorers`.

A scorer is a module with

    BETTER  "higher" or "lower"
    LABEL   the name people read
    READS   optional: keys of [evaluate] that it reads; with those of all scorers the others are
            known to have no effect
    score   Subject -> list[float], one value a sample (an image, or a held-out image)

The mean of the values is the score, their spread gives its interval, so a scorer never averages by
itself. Sample i means the same for every subject of one config (same prompt and seed, same
held-out image): comparisons are paired. An empty list says "not applicable" (one image has no
diversity) and leaves the scorer out of the report.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from raytrain import plugins

if TYPE_CHECKING:
    from raytrain.evaluate.subject import Subject

Better = Literal["higher", "lower"]


class Scorer(Protocol):
    """What a file in `raytrain/evaluate/scorers` offers."""

    BETTER: Better
    LABEL: str

    def score(self, subject: Subject) -> list[float]:
        """Return one value a sample, empty where the scorer does not apply."""


def load(name: str) -> Scorer:
    """Return the scorer module `name`."""
    scorer: Scorer = plugins.load("evaluate.scorers", name)
    return scorer
