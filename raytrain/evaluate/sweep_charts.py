"""Charts of a sweep: trials as lines through their settings, each setting against the score,
the best score so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from raytrain.evaluate.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    columns,
    number,
    path,
    rows,
    scale,
    span,
    svg,
    x_label,
)

Trial = Mapping[str, Any]
MAX_AXES = 7
MAX_MARKS = 4
WIDE = 8
"""A largest value this many times the smallest is spaced by ratio."""


class Axis:
    """One setting's positions in [0, 1]: logarithmic, linear or one place for each choice."""

    def __init__(self, key: str, values: Sequence[Any], log: bool) -> None:
        """Take all values of the setting over the trials; `log`, or a wide range above zero,
        spaces them by ratio."""
        self.key = key
        self.choices: list[str] = []
        self.log = False
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            self.log = min(values) > 0 and (log or max(values) / min(values) >= WIDE)
            self.low, self.high = self._plain(min(values)), self._plain(max(values))
            distinct = sorted(set(values))
            self._shown = distinct if len(distinct) <= MAX_MARKS else [distinct[0], distinct[-1]]
        else:
            self.choices = sorted({str(v) for v in values})

    def place(self, value: Any) -> float:
        """Return a value's position between the axis' ends."""
        if self.choices:
            return (
                self.choices.index(str(value)) / (len(self.choices) - 1)
                if len(self.choices) > 1
                else 0.5
            )
        return (
            (self._plain(value) - self.low) / (self.high - self.low)
            if self.high > self.low
            else 0.5
        )

    def marks(self) -> list[tuple[float, str]]:
        """Return (place, text) of the labels: every choice, every value when there are few,
        else both ends."""
        if self.choices:
            return [(self.place(choice), choice) for choice in self.choices]
        return [(self.place(value), number(value, 3)) for value in self._shown]

    def _plain(self, value: float) -> float:
        return math.log10(value) if self.log else float(value)


def scored(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials that have a finite score, best first as in the leaderboard."""
    return [
        t for t in trials if isinstance(t.get("score"), int | float) and math.isfinite(t["score"])
    ]


def searched(trials: Sequence[Trial], log_keys: Sequence[str] = ()) -> list[Axis]:
    """Return an axis for every setting that differs between trials and that every scored trial
    has."""
    found = scored(trials)
    keys = [
        k
        for k in (found[0]["parameters"] if found else {})
        if all(k in t["parameters"] for t in found)
    ]
    values = {key: [trial["parameters"][key] for trial in found] for key in keys}
    return [Axis(k, v, k in log_keys) for k, v in values.items() if len({str(x) for x in v}) > 1]


def parallel_chart(trials: Sequence[Trial], log_keys: Sequence[str] = ()) -> Markup:
    """Draw every scored trial as a line through its settings to its score;
    better is more colorful."""
    found = scored(trials)
    settings = searched(trials, log_keys)[:MAX_AXES]
    if len(found) < 2 or not settings:
        return Markup()
    rails = [*settings, Axis("score", [t["score"] for t in found], log=False)]
    width, height, top, bottom = max(1020, 170 * len(rails)), 330, 54, 26
    at = [130 + i * (width - 220) / (len(rails) - 1) for i in range(len(rails))]
    y = scale(0, 1, height - bottom, top)
    parts = []
    for rank, trial in reversed(list(enumerate(found))):
        values = [*(trial["parameters"][a.key] for a in settings), trial["score"]]
        places = [(x, axis.place(v)) for x, axis, v in zip(at, rails, values, strict=True)]
        strength = 1 - rank / max(1, len(found) - 1)
        kind = "first" if rank == 0 else "default" if trial.get("default") else ""
        parts.append(
            f'<path class="trial {kind}" style="--strength:{strength:.2f}" '
            f'd="{_curve(places, y)}"><title>{escape(_describe(trial))}</title></path>'
        )
    for x, axis in zip(at, rails, strict=True):
        parts.append(
            f'<line class="rail" x1="{x:g}" x2="{x:g}" y1="{top}" y2="{height - bottom}"/>'
        )
        parts.append(
            f'<text class="axis strong" x="{x:g}" y="{top - 24}" '
            f'text-anchor="middle">{escape(axis.key)}</text>'
        )
        for place, text in axis.marks():
            parts.append(
                f'<text class="tick halo" x="{x - 8:g}" y="{y(place) + 4}" '
                f'text-anchor="end">{escape(text)}</text>'
            )
    label = (
        f"{len(found)} trials, each a line through its settings to its score; best: "
        f"{_describe(found[0])}"
    )
    return svg("".join(parts), label, width, height, "chart parallel")


def scatter_charts(
    trials: Sequence[Trial], log_keys: Sequence[str] = ()
) -> list[tuple[str, Markup]]:
    """Draw (setting, chart of score over setting) for every searched setting."""
    found = scored(trials)
    return (
        [(axis.key, _scatter(axis, found)) for axis in searched(trials, log_keys)]
        if len(found) > 1
        else []
    )


def progress_chart(trials: Sequence[Trial]) -> Markup:
    """Draw each trial's score in the order they started, and the best so far."""
    found = sorted(scored(trials), key=lambda trial: int(trial["number"]))
    if len(found) < 2:
        return Markup()
    x_range = (float(found[0]["number"]), float(found[-1]["number"]))
    y_range = span([t["score"] for t in found])
    x, y = scale(*x_range, LEFT + 8, WIDTH - RIGHT - 8), scale(*y_range, HEIGHT - BOTTOM, TOP)
    best: list[tuple[float, float]] = []
    for trial in found:
        if best:
            best.append((float(trial["number"]), best[-1][1]))
        best.append(
            (float(trial["number"]), max(trial["score"], best[-1][1] if best else -math.inf))
        )
    winner = scored(trials)[0]
    dots = "".join(_dot(t, x(float(t["number"])), y(t["score"]), t is winner) for t in found)
    body = (
        f'{rows(y, y_range)}{columns(x, x_range, "trial")}<path class="line" '
        f'd="{path(best, x, y)}"/>{dots}'
    )
    return svg(
        body,
        f"Best score so far over {len(found)} trials, {number(best[0][1])} to "
        f"{number(best[-1][1])}",
    )


def _scatter(axis: Axis, found: Sequence[Trial]) -> Markup:
    y_range = span([t["score"] for t in found])
    x, y = scale(0, 1, LEFT + 12, WIDTH - RIGHT - 12), scale(*y_range, HEIGHT - BOTTOM, TOP)
    parts = [rows(y, y_range), x_label("log scale") if axis.log else ""]
    for place, text in axis.marks():
        anchor = "start" if place == 0 else "end" if place == 1 else "middle"
        shift = {"start": -12, "end": 12, "middle": 0}[anchor]
        at = f'x="{x(place) + shift}" y="{HEIGHT - BOTTOM + 18}" text-anchor="{anchor}"'
        parts.append(f'<text class="tick" {at}>{escape(text)}</text>')
    parts += [
        _dot(t, x(axis.place(t["parameters"][axis.key])), y(t["score"]), t is found[0])
        for t in reversed(found)
    ]
    return svg("".join(parts), f"Score against {axis.key} for {len(found)} trials")


def _dot(trial: Trial, x: float, y: float, first: bool) -> str:
    kind = "best" if first else "open" if trial.get("state") == "stopped" else ""
    circle = f'<circle class="trialdot {kind}" cx="{x}" cy="{y}" r="{6 if first else 4}">'
    return f"{circle}<title>{escape(_describe(trial))}</title></circle>"


def _describe(trial: Trial) -> str:
    settings = ", ".join(
        f"{k} {number(v, 3) if isinstance(v, float) else v}"
        for k, v in trial["parameters"].items()
    )
    default = " (your settings)" if trial.get("default") else ""
    return f"trial {trial['number']}{default}: score {number(trial['score'])}; {settings}"


def _curve(places: Sequence[tuple[float, float]], y: Callable[[float], float]) -> str:
    parts = [f"M{places[0][0]:g} {y(places[0][1])}"]
    for (x0, a), (x1, b) in pairwise(places):
        middle = (x0 + x1) / 2
        parts.append(f"C{middle:g} {y(a)} {middle:g} {y(b)} {x1:g} {y(b)}")
    return "".join(parts)
