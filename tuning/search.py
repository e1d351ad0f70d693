"""The bridge between Ray Tune and the study: `StudySearch` asks for parameters,
`Recorder` tells what became of them.

Ray's own OptunaSearch records a trial that was stopped early as complete and drops its last
evaluation, and in a resumed sweep it keeps re-run trials as failed. Here these two classes
alone write the study.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from ray.tune import Callback
from ray.tune.search import Searcher

from raytrain import storage
from raytrain.errors import UserError
from tuning.home import Home
from tuning.nested import release
from tuning.stopping import EVALUATION, OBJECTIVE, StoppingRule
from tuning.study import DEFAULT

NUMBER = "number"
PARAMETERS = "parameters"
"""Keys of what a trial function receives."""


class _Here:
    """Of this process alone: Tune writes its settings to a file, which must hold neither a lock
    nor a database's password."""

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing."""
        return {}


class StudySearch(_Here, Searcher):  # type: ignore[misc]
    """Tune's searcher: takes the next trial's parameters from the study, queued ones first."""

    def __init__(
        self, study: optuna.Study, home: Home, distributions: dict[str, BaseDistribution]
    ) -> None:
        super().__init__(metric=OBJECTIVE, mode="max")
        self._study = study
        self._home = home
        self._distributions = distributions
        self.asked: dict[int, optuna.Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the number and the stored parameters of a new trial."""
        with self._home.event():
            trial = self._study.ask(self._distributions)
        self.asked[trial.number] = trial
        return {
            NUMBER: trial.number,
            PARAMETERS: dict(trial.params),
            DEFAULT: bool(trial.user_attrs.get(DEFAULT)),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Do nothing: the recorder tells the study."""

    def save(self, checkpoint_path: str) -> None:
        """Write an empty file: the study needs no second copy."""
        with open(checkpoint_path, "wb"):
            pass

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the study is on disk."""


class Recorder(_Here, Callback):  # type: ignore[misc]
    """Tune's callback: writes every evaluation and every ending of a trial into the study.

    A failed trial's traceback goes to `<folder>/<number>/error.txt`.
    """

    def __init__(
        self,
        study: optuna.Study,
        home: Home,
        search: StudySearch,
        rule: StoppingRule,
        folder: str,
    ) -> None:
        self._study = study
        self._home = home
        self._folder = folder
        self._search = search
        self._rule = rule

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Record one evaluation."""
        asked = self._search.asked[trial.config[NUMBER]]
        with self._home.event():
            asked.report(result[OBJECTIVE], result[EVALUATION])
            for name, value in (
                ("scores", result["scores"]),
                ("steps", result["step"]),
                ("seconds", round(result["seconds"], 3)),
            ):
                asked.set_user_attr(name, value)

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        """Record that a trial completed, or that its stopping rule ended it."""
        release(trial.last_result)
        asked = self._search.asked.pop(trial.config[NUMBER])
        reason = self._rule.stopped.get(trial.trial_id)
        objective = trial.last_result.get(OBJECTIVE)
        with self._home.event():
            if reason is not None:
                asked.set_user_attr("reason", reason)
                self._study.tell(asked, state=TrialState.PRUNED)
            elif objective is None:
                asked.set_user_attr("reason", "it ended without an evaluation")
                self._study.tell(asked, state=TrialState.FAIL)
            else:
                self._study.tell(asked, objective)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record that a trial failed, and why."""
        asked = self._search.asked.pop(trial.config[NUMBER])
        release(trial.last_result)
        text = _traceback(trial)
        storage.write_bytes(
            storage.join(self._folder, str(asked.number), "error.txt"), text.encode()
        )
        with self._home.event():
            asked.set_user_attr("reason", _reason(text))
            self._study.tell(asked, state=TrialState.FAIL)

    def running(self) -> Iterable[int]:
        """Return the numbers of trials without an ending."""
        return sorted(self._search.asked)


def _traceback(trial: Any) -> str:
    with contextlib.suppress(OSError, TypeError):
        with open(trial.error_file, encoding="utf-8") as file:
            return re.sub(r"\x1b\[[0-9;]*m", "", file.read())  # Ray colors it
    return "unknown error"


def _reason(traceback: str) -> str:
    """Return a user's mistake in full, of another error the last line."""
    _, mistake, message = traceback.rpartition(f"{UserError.__module__}.{UserError.__name__}: ")
    return message.strip() if mistake else traceback.strip().splitlines()[-1]
