"""A sweep's output to the user: the table of trials at each evaluation, a line per ending,
the time that is left."""

from __future__ import annotations

import time
from typing import Any

import rich
from ray.tune import Callback
from rich import box
from rich.table import Table

from raytrain import storage
from raytrain.config import Config
from tuning import space
from tuning.home import folder
from tuning.leaderboard import number as shown
from tuning.search import NUMBER, PARAMETERS
from tuning.stopping import EVALUATION, OBJECTIVE, StoppingRule


class Progress(Callback):  # type: ignore[misc]
    """Tune's callback that prints to the console."""

    def __init__(self, config: Config, rule: StoppingRule, done: int) -> None:
        self._config = config
        self._rule = rule
        self._done_before = self._done = done
        self._started = time.monotonic()
        self._rows: dict[int, dict[str, Any]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Print the table of running trials."""
        self._rows[trial.config[NUMBER]] = {
            **result,
            PARAMETERS: space.decode(self._config, trial.config[PARAMETERS]),
        }
        title = f"trials {self._done}/{self._config.tune.trials} done{self._left()}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
        for column in ("trial", "step", "evaluation", "objective"):
            table.add_column(column, no_wrap=True)
        table.add_column("parameters", overflow="fold")
        for number, row in sorted(self._rows.items()):
            done = f"{row[EVALUATION]}/{self._config.tune.evaluations}"
            table.add_row(
                str(number), str(row["step"]), done, shown(row[OBJECTIVE]), _text(row[PARAMETERS])
            )
        rich.print(table)

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        """Print how a trial ended."""
        reason = self._rule.stopped.get(trial.trial_id)
        objective = shown(trial.last_result.get(OBJECTIVE))
        seconds = trial.last_result.get("seconds", 0.0)
        self._ended(
            trial,
            f"stopped: {reason}" if reason else f"completed with {objective} in {seconds:.0f} s",
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Print that a trial failed and where its traceback is."""
        trials_folder = storage.join(folder(self._config), "trials")
        error = storage.join(trials_folder, str(trial.config[NUMBER]), "error.txt")
        self._ended(trial, f"failed, see {error}")

    def _ended(self, trial: Any, how: str) -> None:
        self._done += 1
        self._rows.pop(trial.config[NUMBER], None)
        parameters = _text(space.decode(self._config, trial.config[PARAMETERS]))
        done = f"{self._done}/{self._config.tune.trials} done{self._left()}"
        rich.print(f"trial {trial.config[NUMBER]} {how} ({parameters}); {done}")

    def _left(self) -> str:
        now = self._done - self._done_before
        missing = self._config.tune.trials - self._done
        if not now or not missing:
            return ""
        minutes, seconds = divmod(round((time.monotonic() - self._started) / now * missing), 60)
        return (
            f", about {minutes} min {seconds} s left" if minutes else f", about {seconds} s left"
        )


def _text(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{key.split('.')[-1]}={shown(value)}" for key, value in parameters.items())
