"""How a sweep stands, for Prometheus: its trials by state, and the best objective."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Callback

from raytrain.config import Config
from raytrain.telemetry import Telemetry
from tuning import study

STATES = {
    "running": TrialState.RUNNING,
    "completed": TrialState.COMPLETE,
    "stopped": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Metrics(Callback):  # type: ignore[misc]
    """Tune's callback that reads the study; the recorder writes it before."""

    def __init__(self, config: Config, opened: optuna.Study) -> None:
        self._telemetry, self._study = Telemetry(config), opened

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Tell it again every few seconds."""
        if self._telemetry.due():
            self._tell()

    def on_trial_complete(
        self, iteration: int, trials: list[Any], trial: Any, **info: Any
    ) -> None:
        """Tell that a trial has ended."""
        self._tell()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tell that a trial has failed."""
        self._tell()

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Tell how the sweep ended."""
        self._tell()

    def _tell(self) -> None:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        ended = study.finished(self._study)
        counts = Counter(trial.state for trial in (*running, *ended))
        for name, state in STATES.items():
            self._telemetry.keep("raytrain_tune_trials", counts[state], state=name)
        values = [t.value for t in ended if t.state == TrialState.COMPLETE and t.value is not None]
        if finite := [value for value in values if math.isfinite(value)]:
            self._telemetry.keep("raytrain_tune_best_objective", max(finite))
        self._telemetry.write()
