"""Prompt files: one prompt a line, with the flags of kohya's sd-scripts for what is not as in
[sample].

# a comment
a red star on a blue background --n blurry --w 512 --h 768 --d 7 --l 5.5 --s 20 --cn edges/star.png
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrain.errors import UserError
from raytrain.text import decode


@dataclass(frozen=True)
class Wish:
    """One prompt's settings; None is as in [sample]."""

    text: str
    where: str
    """Its source, for messages."""
    negative_prompt: str | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    guidance_scale: float | None = None
    steps: int | None = None
    control: str = ""
    """Path or URI of the control image."""
    row: tuple[str, str, int] | None = None
    """Of a caption: the split and the bucket it comes from, and which of that bucket's rows."""


def read(path: str) -> list[Wish]:
    """Return the prompts of a file; UserError where there is none,
    or names the line that says what is not known."""
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"sample.prompt_file {path!r} is no file here, so there is nothing to draw. "
            "Give a text file, one prompt a line."
        )
    try:
        lines = enumerate(decode(file.read_bytes()).splitlines(), 1)
    except ValueError as error:
        raise UserError(
            f"sample.prompt_file {path!r} {error}. No prompt of it could be read."
        ) from None
    given = [(f"{path}:{number}", line.strip()) for number, line in lines]
    wishes = [parse(line, where, file.parent) for where, line in given if line and line[0] != "#"]
    if not wishes:
        raise UserError(
            f"sample.prompt_file {path!r} holds no prompt, so others would be drawn. Write one a "
            "line, or leave sample.prompt_file out."
        )
    return wishes


def parse(line: str, where: str, folder: Path) -> Wish:
    """Return the prompt of one line; a relative control image is in `folder`.

    >>> parse("a star --d 7 --l 5.5", "prompts.txt:1", Path()).guidance_scale
    5.5
    """
    text, *flags = f" {line}".split(" --")
    given: dict[str, Any] = {}
    for flag in flags:
        name, _, value = flag.strip().partition(" ")
        if name not in _FLAGS:
            raise UserError(
                f"{where}: the flag '--{name}' is not known, so the prompt would not be drawn as "
                f"it says. Known are {', '.join(f'--{each}' for each in _FLAGS)}; all else is set "
                "in [sample]."
            )
        key, convert = _FLAGS[name]
        if key in given:
            raise UserError(
                f"{where}: '--{name}' sets {key} a second time; only one would count. Leave one "
                "out."
            )
        try:
            given[key] = convert(value.strip())
        except ValueError as error:
            raise UserError(
                f"{where}: '--{name}' must be {error}, got {value.strip()!r}; nothing was drawn. "
                "Correct the line."
            ) from None
    if "control" in given and "://" not in given["control"]:
        given["control"] = str(folder / given["control"])
    return Wish(text.strip(), where, **given)


def _number(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    what = f"{'a whole number' if kind is int else 'a number'} of at least {least}"

    def convert(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(what) from None
        if not (math.isfinite(number) and number >= least):
            raise ValueError(what)
        return number

    return convert


def _text(value: str) -> str:
    if not value:
        raise ValueError("followed by a value")
    return value


_FLAGS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "n": ("negative_prompt", _text),
    "w": ("width", _number(int, 16)),
    "h": ("height", _number(int, 16)),
    "d": ("seed", _number(int, 0)),
    "l": ("guidance_scale", _number(float, 0)),
    "s": ("steps", _number(int, 1)),
    "cn": ("control", _text),
    "ci": ("control", _text),
}
"""Flag -> what it sets, and how its value is read."""
