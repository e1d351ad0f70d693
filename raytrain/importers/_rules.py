"""Rules: what becomes of one key of another trainer's configuration. Pure.

A rule is a function of the key's value and of what else the configuration holds. The makers below
build the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

OFF: tuple[Any, ...] = (None, False, "", 0, [], {}, "none", "None", "false", "False", "no", "0")
"""Values with which a key does nothing."""


@dataclass(frozen=True)
class Said:
    """What becomes of a key: settings of ours, or why there are none."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""
    """What has no equal, and why; settings next to it are the nearest there is."""
    note: str = ""


@dataclass(frozen=True)
class Asked:
    """A key, and the configuration it is from."""

    key: str
    given: Mapping[str, Any]
    """All keys that the configuration sets."""
    defaults: Mapping[str, Any]
    """What their trainer takes for those it does not."""

    def of(self, key: str) -> Any:
        """Return what counts for a key: what is set, their default, or None."""
        return self.given.get(key, self.defaults.get(key))

    @property
    def beside(self) -> str:
        """Return the key's table: `datasets[0].` of `datasets[0].resolution`."""
        return self.key[: self.key.rfind(".") + 1]

    @property
    def index(self) -> int:
        """Return the last index in the key, 0 without one."""
        return int(self.key.rpartition("[")[2].partition("]")[0]) if "[" in self.key else 0


Rule = Callable[[Any, Asked], Said]


@dataclass(frozen=True)
class To:
    """The key is ours by another name; `convert` raises ValueError for what has no equal."""

    key: str
    convert: Callable[[Any], Any] = lambda value: value
    note: str = ""

    def __call__(self, value: Any, asked: Asked) -> Said:
        """Return the setting; none where theirs is not set."""
        if value is None:
            return Said(note="not set there")
        try:
            return Said({self.key: self.convert(value)}, note=self.note)
        except ValueError as error:
            return Said(missing=str(error))


def each(values: Mapping[Any, Any]) -> Callable[[Any], Any]:
    """Return a conversion by a table; any other value has no equal."""

    def convert(value: Any) -> Any:
        if not isinstance(value, Hashable) or value not in values:
            raise ValueError(f"{value!r} has no equal; there are {', '.join(map(str, values))}")
        return values[value]

    return convert


def none(why: str, off: Iterable[Any] = OFF) -> Rule:
    """Return the rule of a key without an equal, which does nothing where its value is off."""
    idle = tuple(off)

    def rule(value: Any, asked: Asked) -> Said:
        return (
            Said(note="nothing to set")
            if any(value is each or value == each for each in idle)
            else Said(missing=why)
        )

    return rule


def same(note: str) -> Rule:
    """Return the rule of a key that needs no setting here."""
    return lambda value, asked: Said(note=note)


def when(key: str, *values: Any, then: Rule, other: str) -> Rule:
    """Return a rule that holds where another key has one of these values; else `other` says why
    the key does nothing."""
    return lambda value, asked: then(value, asked) if asked.of(key) in values else Said(note=other)


def flag(value: Any) -> bool:
    """Read a switch, also as text.

    >>> flag("true"), flag(0)
    (True, False)
    """
    if isinstance(value, str):
        if value.lower() not in ("true", "false", "yes", "no", "1", "0"):
            raise ValueError(f"{value!r} is neither true nor false")
        return value.lower() in ("true", "yes", "1")
    return bool(value)


def number(value: Any) -> float:
    """Read a number, also as text, as YAML gives 1e-4."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is no number") from None
    if not math.isfinite(found):
        raise ValueError(f"{value!r} is not finite")
    return found


def whole(value: Any) -> int:
    """Read a whole number, also as text."""
    found = number(value)
    if found != int(found):
        raise ValueError(f"{value!r} is no whole number")
    return int(found)


def factor(rate: Any, of: Any) -> float:
    """Return a learning rate as a factor of another one."""
    if not number(of):
        raise ValueError(f"a rate of {rate} beside one of 0")
    return number(rate) / number(of)


def norm(value: Any) -> float:
    """Read a gradient's largest norm; 0 is no limit, which ours says with a large one."""
    return number(value) or 1e9


def listed(value: Any) -> list[str]:
    """Read one text or several, without empty ones."""
    return [str(each) for each in (value if isinstance(value, list) else [value]) if each]


def side(resolution: Any) -> tuple[int, int]:
    """Read a size: `512`, "512,768", "1024x1024" or [512, 768]."""
    if isinstance(resolution, str):
        resolution = resolution.replace("x", ",").replace("px", "").split(",")
    found = [
        whole(each) for each in (resolution if isinstance(resolution, list) else [resolution])
    ]
    if not 1 <= len(found) <= 2:
        raise ValueError(f"{resolution!r} is no width and height")
    return found[0], found[-1]


def fixed(width: int, height: int) -> dict[str, Any]:
    """Return the settings of one size for all images, without buckets."""
    step = next((each for each in (64, 32, 16, 8) if not (width % each or height % each)), None)
    if step is None:
        raise ValueError(f"{width}x{height} is no multiple of 8, which the VAE needs")
    if width == height:
        square = {"data.buckets.resolution": width, "data.buckets.max_ratio": 1.0}
        return {**square, "data.buckets.step": step}
    return {"data.buckets.sizes": [[width, height]], "data.buckets.step": step}


def schedule(name: str, cycles: Any = None, power: Any = None) -> Rule:
    """Return the rule of a schedule of diffusers; `cycles` and `power` name the keys that shape
    it."""

    def rule(value: Any, asked: Asked) -> Said:
        found = _SCHEDULES.get(str(value))
        if found is None:
            known = ", ".join(sorted(set(_SCHEDULES.values())))
            return Said(missing=f"the schedule {value!r}; there are {known}")
        settings: dict[str, Any] = {"train.lr_schedule": found}
        if found == "cosine_restarts":
            times = whole(asked.of(cycles) or 1) if cycles else 1
            if times < 2:
                return Said(
                    {"train.lr_schedule": "cosine"}, note="restarts of one cycle are a cosine"
                )
            settings["train.lr_schedule_cycles"] = times
        if found == "polynomial":
            settings["train.lr_schedule_power"] = number(asked.of(power) or 1) if power else 1.0
        return Said(settings)

    return rule


_SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "polynomial": "polynomial",
    "cosine_with_restarts": "cosine_restarts",
}
