"""`[tune]` of the config file: the search over other settings. See `raytrain.config`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from raytrain.table import Interval, Seed, Size, Table

REFERENCE = re.compile(r"\$\{(\w+)\}")
"""An environment variable in `tune.storage`."""
_PASSWORD = re.compile(r"//[^/@:]*:(.+)@|[?&]\w*passw(?:or)?d=([^&]+)")


class Dimension(Table):
    """One searched key: exactly one of log, linear, int, choice."""

    log: Interval | None = None
    linear: Interval | None = None
    int: Size | None = None
    choice: Annotated[tuple[Any, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Dimension:
        given = {k: v for k, v in self.__dict__.items() if v is not None}
        if len(given) != 1:
            raise ValueError(
                "a dimension is exactly one of log, linear, int, choice, got "
                f"{sorted(given) or 'none'}"
            )
        kind, value = next(iter(given.items()))
        if kind != "choice" and not value[0] < value[1]:
            raise ValueError(f"{kind} needs low < high, got {list(value)}")
        if kind == "log" and value[0] <= 0:
            raise ValueError(f"log needs a low above 0, got {value[0]}")
        return self


class TuneConfig(Table):
    """`[tune]`: the search over any config keys."""

    trials: int = Field(16, ge=1)
    concurrent: int = Field(1, ge=1)
    objective: dict[str, float] = Field({"held_out_loss": -1.0, "clip_text": 1.0})
    """Weights of evaluated scores; their weighted sum is maximized."""
    stopper: Literal["asha", "median", "none"] = "asha"
    grace: int = Field(1, ge=1)
    """Evaluations every trial is allowed before it may be stopped."""
    reduction: int = Field(2, ge=2)
    """ASHA keeps one in this many at each rung."""
    evaluations: int = Field(4, ge=1)
    """Evaluations in one trial, evenly spaced."""
    include_default: bool = True
    """The first trial is the config as it stands."""
    seed: Seed = 0
    space: dict[str, Dimension] = Field({})
    storage: str = ""
    """Address of a database that keeps the study, as Optuna takes it: `postgresql://`, `mysql://`,
    `sqlite:///` or `journal:///path`; `${NAME}` is an environment variable. By default the study
    is a file in the output folder."""

    @field_validator("storage")
    @classmethod
    def _no_password(cls, storage: str) -> str:
        for found in _PASSWORD.finditer(storage):
            if not REFERENCE.fullmatch(found.group(1) or found.group(2)):
                raise ValueError(
                    "it holds a password, which would be written into every checkpoint and the "
                    "winner's config; write ${NAME} in its place and set the environment variable "
                    "NAME where the command runs"
                )
        return storage

    @model_validator(mode="after")
    def _space_not_reserved(self) -> TuneConfig:
        for key in self.space:
            if key.split(".")[0] in ("tune", "output", "data", "cluster", "log"):
                raise ValueError(
                    f"space key {key!r} cannot be searched: all trials read one prepared dataset "
                    "and one study; search keys of [train], [method], [objective], [model] or "
                    "[sample]"
                )
        return self
