"""Charts as inline SVG without script, font or color of their own: classes take the page's colors,
light or dark."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 36
"""Frame of a small chart in SVG units; about one unit is one pixel on a phone and on a wide screen
alike."""
NOTHING = "\N{EN DASH}"
MAX_POINTS = 400
"""Longer curves are drawn as this many bins' means."""

Points = Sequence[tuple[float, float]]


def number(value: float | int | None, digits: int = 4) -> str:
    """Write a number for people: about four significant digits,
    no exponent between 0.001 and 100,000."""
    if isinstance(value, int) and not isinstance(value, bool):
        return minus(f"{value:,}")
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{max(0, digits - 2)}e}".split("e")
        return minus(
            f"{mantissa.rstrip('0').rstrip('.') if '.' in mantissa else mantissa}e{int(exponent)}"
        )
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return minus(f"{value:,.{min(decimals, 4)}f}")


def interval(row: Mapping[str, Any]) -> str:
    """Write the range of a score or difference; a single sample has none."""
    return "one sample" if row["count"] == 1 else f"{number(row['low'])} to {number(row['high'])}"


def minus(text: str) -> str:
    """Put the true minus sign in front of a negative number."""
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) inside [low, high],
    about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = min((m * magnitude for m in (1, 2, 5, 10)), key=lambda candidate: abs(candidate - raw))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Write evenly spaced values with the decimals their spacing needs,
    or as powers of ten when they are tiny."""
    step = abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4 or max(map(abs, values)) >= 1e5:
        return [number(value, 3) for value in values]
    return [minus(f"{value:,.{decimals}f}") for value in values]


def span(values: Sequence[float], pad: float = 0.08) -> tuple[float, float]:
    """Return the range of values with some air around it; a single value gets air of its own
    size."""
    low, high = min(values), max(values)
    air = (high - low) * pad or abs(high) * 0.5 or 1.0
    return low - air, high + air


def thin(points: Points, count: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Shorten a curve to the means of at most `count` equal bins."""
    if len(points) <= count:
        return list(points)
    edges = [round(i * len(points) / count) for i in range(count + 1)]
    bins = [points[a:b] for a, b in pairwise(edges)]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return the curve's centered moving average over a tenth of its length."""
    radius = max(1, len(points) // 20)
    result = []
    for i, (x, _) in enumerate(points):
        window = points[max(0, i - radius) : i + radius + 1]
        result.append((x, sum(y for _, y in window) / len(window)))
    return result


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return the linear map of [low, high] to [start, end]."""
    width = (high - low) or 1.0
    return lambda value: round(start + (value - low) / width * (end - start), 2)


def path(points: Points, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """Return SVG path data through points."""
    return "M" + "L".join(f"{x(a)} {y(b)}" for a, b in points)


def svg(
    body: str,
    label: str,
    width: float = WIDTH,
    height: float = HEIGHT,
    classes: str = "chart",
    data: str = "",
) -> Markup:
    """Wrap SVG elements into an image with a spoken label."""
    head = (
        f'<svg class="{classes}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}"{data}>'
    )
    return Markup(f"{head}{body}</svg>")


def rows(y: Callable[[float], float], y_range: tuple[float, float]) -> str:
    """Draw horizontal grid lines with their values."""
    parts = []
    values = ticks(*y_range)
    for value, text in zip(values, tick_labels(values), strict=True):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" '
            f'y2="{y(value)}"/>'
        )
        parts.append(
            f'<text class="tick" x="{LEFT - 7}" y="{y(value) + 4}" text-anchor="end">{text}</text>'
        )
    return "".join(parts)


def columns(x: Callable[[float], float], x_range: tuple[float, float], label: str) -> str:
    """Write whole numbers below the chart and what they count."""
    places = [value for value in ticks(*x_range) if value == round(value)]
    parts = [
        f'<text class="tick" x="{x(value)}" y="{HEIGHT - BOTTOM + 17}" '
        f'text-anchor="middle">{value:,.0f}</text>'
        for value in places
    ]
    return "".join(parts) + x_label(label)


def x_label(text: str) -> str:
    """Write what the horizontal direction means."""
    return (
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" '
        f'text-anchor="end">{escape(text)}</text>'
    )


def best_point(points: Points, mark: str) -> tuple[float, float]:
    """Return the lowest ("min") or highest ("max") point of a curve."""
    return (min if mark == "min" else max)(points, key=lambda point: point[1])


def line_chart(points: Points, label: str, noisy: bool = False, mark: str = "") -> Markup:
    """Draw one metric over steps.

    `noisy` adds a bold average over the faint raw curve; `mark` = "min" or "max" circles the best
    point.
    """
    shown = thin(points)
    x_range = (shown[0][0], shown[-1][0]) if len(shown) > 1 else span([shown[0][0]])
    y_range = span([v for _, v in shown])
    if min(v for _, v in shown) >= 0:
        y_range = (max(0.0, y_range[0]), y_range[1])
    x = scale(*x_range, LEFT, WIDTH - RIGHT)
    y = scale(*y_range, HEIGHT - BOTTOM, TOP)
    parts = [rows(y, y_range), columns(x, x_range, "step")]
    averaged = noisy and len(shown) >= 20
    parts.append(f'<path class="line{" raw" if averaged else ""}" d="{path(shown, x, y)}"/>')
    if averaged:
        parts.append(f'<path class="line" d="{path(smooth(shown), x, y)}"/>')
    elif len(shown) <= 40:
        parts += [f'<circle class="dot" cx="{x(a)}" cy="{y(b)}" r="2.4"/>' for a, b in shown]
    if mark:
        best = best_point(points, mark)
        parts.append(f'<circle class="best" cx="{x(best[0])}" cy="{y(best[1])}" r="5"/>')
    parts.append(
        f'<g class="cursor" hidden><line y1="{TOP}" y2="{HEIGHT - BOTTOM}"/><circle r="4"/></g>'
    )
    data = json.dumps(
        [[round(a), float(f"{b:.5g}"), x(a), y(b)] for a, b in shown], separators=(",", ":")
    )
    start, end = (f"{number(value)} at step {step:,g}" for step, value in (points[0], points[-1]))
    return svg(
        "".join(parts), f"{label}: from {start} to {end}", data=f' data-points="{escape(data)}"'
    )


def interval_chart(
    base: tuple[float, float, float], tuned: tuple[float, float, float], label: str
) -> Markup:
    """Draw two (mean, low, high) intervals above each other on one scale: base on top,
    tuned below."""
    low, high = span([*base, *tuned], 0.06)
    x = scale(low, high, 6, 154)
    parts = []
    for row, (name, (mean, left, right)) in enumerate((("base", base), ("tuned", tuned))):
        height = 11 + 18 * row
        parts.append(
            f'<line class="whisker {name}" x1="{x(left)}" x2="{x(right)}" y1="{height}" '
            f'y2="{height}"/>'
        )
        parts.append(f'<circle class="mean {name}" cx="{x(mean)}" cy="{height}" r="5"/>')
    spoken = f"{label}: base {number(base[0])}, tuned {number(tuned[0])}"
    return svg("".join(parts), spoken, 160, 40, "chart interval")


def aspect_glyph(width: int, height: int) -> Markup:
    """Draw a bucket's shape to scale of its aspect ratio."""
    factor = 26 / max(width, height)
    w, h = round(width * factor, 1), round(height * factor, 1)
    body = (
        f'<rect class="glyph" x="{(30 - w) / 2:g}" y="{(30 - h) / 2:g}" width="{w}" height="{h}" '
        'rx="2"/>'
    )
    return svg(body, f"{width} by {height} pixels", 30, 30, "aspect")
