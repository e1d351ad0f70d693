"""The leaderboard: what the study holds, best first, as JSON, as a table,
and as the winner's ready-to-run config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import rich
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.markup import escape
from rich.table import Table

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse, to_toml
from tuning import space, study
from tuning.home import folder

COMPLETED, STOPPED, FAILED = "completed", "stopped", "failed"
_STATES = {TrialState.COMPLETE: COMPLETED, TrialState.PRUNED: STOPPED, TrialState.FAIL: FAILED}
Row = dict[str, Any]


def rows(config: Config, sweep: optuna.Study) -> list[Row]:
    """Return one row a trial: completed ones first, then stopped, then failed,
    the best of each first."""
    found = [_row(config, trial) for trial in study.finished(sweep)]
    order = [COMPLETED, STOPPED, FAILED]

    def rank(row: Row) -> tuple[int, float, int]:
        score = -math.inf if row["score"] is None else row["score"]
        return order.index(row["state"]), -score, row["number"]

    return sorted(found, key=rank)


def write(config: Config, found: list[Row]) -> str:
    """Write `<output>/tune/leaderboard.json` and return its path."""
    path = storage.join(folder(config), "leaderboard.json")
    storage.write_json(path, found)
    return path


def winner(found: list[Row]) -> Row | None:
    """Return the best completed trial; a stopped one cannot win,
    its weights were never finished."""
    return next((row for row in found if row["state"] == COMPLETED), None)


def winner_config(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Return the ready-to-run config with the best parameters,
    on the dataset that all trials shared."""
    tree = space.apply(config, parameters).values()
    tree["data"]["dataset"] = config.dataset
    tree["output"] = storage.join(config.output, "winner")
    return parse(tree)


def write_winner(config: Config, parameters: Mapping[str, Any]) -> str:
    """Write `<output>/tune/winner.toml` and return its path."""
    path = storage.join(folder(config), "winner.toml")
    storage.write_bytes(path, to_toml(winner_config(config, parameters)).encode())
    return path


def show(config: Config, found: list[Row]) -> None:
    """Print the leaderboard."""
    table = Table(
        title="leaderboard (* = the config as it stood)",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    names = list(config.tune.objective)
    keys = [key.split(".")[-1] for key in config.tune.space]
    for column in ("trial", "state", "objective", *names, *keys, "steps", "seconds"):
        table.add_column(column, overflow="fold", no_wrap=column in ("state", "objective"))
    for row in found:
        cells = [
            f"{row['number']}{'*' if row['default'] else ''}",
            row["state"],
            number(row["score"]),
            *(number(row["scores"].get(name)) for name in names),
            *(number(row["parameters"].get(key)) for key in config.tune.space),
            str(row["steps"]),
            f"{row['seconds']:.0f}",
        ]
        table.add_row(
            *cells, style="bold" if row is found[0] and row["state"] == COMPLETED else None
        )
    rich.print(table)
    for row in found:
        if row["reason"] and row["state"] == FAILED:
            rich.print(f"trial {row['number']} failed: {escape(row['reason'])}")


def number(value: Any) -> str:
    """Return a table cell: four significant digits for a float, `-` for nothing."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value))


def _row(config: Config, trial: FrozenTrial) -> Row:
    notes = trial.user_attrs
    score = trial.value if trial.state != TrialState.FAIL else None
    return {
        "number": trial.number,
        "state": _STATES[trial.state],
        "score": _finite(score),
        "scores": {name: _finite(value) for name, value in notes.get("scores", {}).items()},
        "parameters": space.decode(config, trial.params),
        "steps": notes.get("steps", 0),
        "seconds": notes.get("seconds", 0.0),
        "default": bool(notes.get(study.DEFAULT)),
        "reason": notes.get("reason", ""),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
