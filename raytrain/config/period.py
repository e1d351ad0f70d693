"""How often something is done while a run trains: every so many steps, epochs or minutes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

PATTERN = r"([0-9]+(\.[0-9]{1,3})?) (step|epoch|minute)s?"
SHARE = r"([0-9]+(?:\.[0-9]+)?) ?%"
UNITS: dict[str, Literal["steps", "epochs", "minutes"]] = {
    "step": "steps",
    "epoch": "epochs",
    "minute": "minutes",
}


@dataclass(frozen=True)
class Every:
    """A period; `number` 0 is never."""

    number: float
    unit: Literal["steps", "epochs", "minutes"] = "steps"

    def passed(self, before: float, now: float) -> bool:
        """Return whether a multiple of the period was reached after `before` and until `now`,
        both in its unit."""
        return self.number > 0 and now // self.number > before // self.number


def parse(value: object) -> Every:
    """Read `500`, "500 steps", "2 epochs" or "0.5 minutes"; ValueError for anything else."""
    if isinstance(value, Every):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Every(value)
    match = re.fullmatch(PATTERN, value) if isinstance(value, str) else None
    number = 0.0 if match is None else float(match[1])
    if match is None or not number or (match[3] != "minute" and match[2]):
        raise ValueError(
            'must be a whole number of steps, or text such as "500 steps", "2 epochs" or "0.5 '
            f'minutes", got {value!r}'
        )
    return Every(number if match[2] else int(match[1]), UNITS[match[3]])


def write(every: Every) -> int | str:
    """Return what `parse` reads back to an equal period."""
    return int(every.number) if every.unit == "steps" else f"{every.number} {every.unit}"


def in_steps(number: int) -> Any:
    """Return a config field whose default is so many steps, in the JSON schema too."""
    return Field(Every(number), json_schema_extra={"default": number})


def _schema(least: int) -> dict[str, Any]:
    return {
        "anyOf": [
            {"type": "integer", "minimum": least},
            {"type": "string", "pattern": f"^{PATTERN}$"},
        ]
    }


def _often(value: object) -> Every:
    if not (every := parse(value)).number:
        raise ValueError("must be more often than never, got 0")
    return every


Period = Annotated[
    Every, PlainValidator(parse), PlainSerializer(write), WithJsonSchema(_schema(0))
]
"""A config's period; 0 is never."""
RealPeriod = Annotated[
    Every, PlainValidator(_often), PlainSerializer(write), WithJsonSchema(_schema(1))
]
"""A config's period that is never 0."""


def _share(value: object) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    match = re.fullmatch(SHARE, value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError(
            f'must be a whole number of steps, or a share of all such as "5 %", got {value!r}'
        )
    return f"{match[1]} %"


def steps_of(share: int | str, total: int) -> int:
    """Return a `Share` of so many steps, rounded to whole ones."""
    return (
        share if isinstance(share, int) else round(float(share.removesuffix(" %")) / 100 * total)
    )


Share = Annotated[
    int | str,
    PlainValidator(_share),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": f"^{SHARE}$"}]}
    ),
]
"""A config's number of steps, or their share of a run: "5 %"."""
