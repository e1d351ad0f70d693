"""Early stopping: Ray Tune's ASHA and median rules on the objective,
compared after equally many evaluations.

What Ray's rules leave to the caller: a trial without a finite objective is stopped at once; a
trial is never stopped on its last evaluation (it has paid for all its training); the default
settings run to their end, since the winner is measured against them; and a resumed sweep gets
its earlier trials replayed, so that new trials are compared with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from raytrain.config.tune import TuneConfig
from tuning.study import DEFAULT

OBJECTIVE = "objective"
EVALUATION = "evaluation"
LAST = "last"
"""Keys of a trial's report: the objective, how many evaluations there were,
whether this is the trial's last one."""


@dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier run of the sweep, as Ray's rules want to see it."""

    trial_id: str


class StoppingRule(FIFOScheduler):  # type: ignore[misc]
    """Decide after every evaluation whether a trial continues; `stopped` maps each stopped Ray
    trial id to the reason."""

    def __init__(self, tune: TuneConfig) -> None:
        super().__init__()
        self._metric = OBJECTIVE
        self._rule = _rule(tune)
        self.stopped: dict[str, str] = {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Accept what Tune proposes: the metric is fixed here."""
        return True

    def replay(self, name: str, values: Mapping[int, float]) -> None:
        """Enter the evaluations of a trial that ran earlier, so that later ones are compared with
        it."""
        trial = _Earlier(f"earlier-{name}")
        self._rule.on_trial_add(None, trial)
        for evaluation, objective in sorted(values.items()):
            if math.isfinite(objective):
                self._judge(None, trial, {OBJECTIVE: objective, EVALUATION: evaluation})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Enter a new trial."""
        self._rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return CONTINUE or STOP for a trial's newest evaluation."""
        if result.get("done"):  # Tune repeats the last report when the trial function has returned
            return str(TrialScheduler.CONTINUE)
        if not math.isfinite(result[OBJECTIVE]):
            self.stopped[trial.trial_id] = "its scores are not finite"
            return str(TrialScheduler.STOP)
        decision = self._judge(tune_controller, trial, result)
        protected = result.get(LAST) or getattr(trial, "config", {}).get(DEFAULT)
        if decision != TrialScheduler.STOP or protected:
            return str(TrialScheduler.CONTINUE)
        self.stopped[trial.trial_id] = (
            f"worse than its rivals after {result[EVALUATION]} evaluations"
        )
        return str(TrialScheduler.STOP)

    def _judge(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return what Ray's rule says of an evaluation."""
        decision = str(self._rule.on_trial_result(tune_controller, trial, result))
        # The median rule takes no further evaluation of a trial that it would have stopped; who is
        # stopped is decided here.
        getattr(self._rule, "_stopped_trials", set()).discard(trial)
        return decision


def _rule(tune: TuneConfig) -> Any:
    if tune.stopper == "none" or tune.grace >= tune.evaluations:
        return FIFOScheduler()
    shared = {
        "time_attr": EVALUATION,
        "metric": OBJECTIVE,
        "mode": "max",
        "grace_period": tune.grace,
    }
    if tune.stopper == "asha":
        # stop_last_trials=False: reaching max_t means finished, which the trial function says
        # itself
        return ASHAScheduler(
            max_t=tune.evaluations,
            reduction_factor=tune.reduction,
            stop_last_trials=False,
            **shared,
        )
    # min_time_slice=inf: else Ray pauses trials while there are few rivals, and a paused function
    # starts again from 0
    return MedianStoppingRule(min_samples_required=2, min_time_slice=math.inf, **shared)
