"""When a trial is stopped, in sentences."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from raytrain.config.tune import TuneConfig
from tuning.stopping import StoppingRule
from tuning.study import DEFAULT


@dataclass(frozen=True)
class Trial:
    trial_id: str
    config: dict[str, bool] = field(default_factory=dict, hash=False)


def rule(stopper: str = "asha", **changes: Any) -> StoppingRule:
    return StoppingRule(TuneConfig(stopper=stopper, evaluations=4, **changes))


def report(
    on: StoppingRule, name: str, evaluation: int, objective: float, last: bool = False
) -> bool:
    """Report one evaluation; True when the trial goes on."""
    trial = Trial(name)
    if evaluation == 1:
        on.on_trial_add(None, trial)
    result = {"objective": objective, "evaluation": evaluation, "last": last}
    return on.on_trial_result(None, trial, result) == "CONTINUE"


def run(on: StoppingRule, name: str, objectives: list[float]) -> int:
    """Report a whole trial; return after how many evaluations it was stopped, 0 for never."""
    for number, objective in enumerate(objectives, start=1):
        if not report(on, name, number, objective, last=number == 4):
            return number
    return 0


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_a_trial_a_hundred_times_worse_is_stopped_at_its_first_rung(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        assert run(on, name, [-1.0, -0.9, -0.8, -0.7]) == 0
    assert run(on, "hopeless", [-100.0, -100.0, -100.0, -100.0]) == 1
    assert "hopeless" in on.stopped


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_the_grace_period_protects_a_late_starter(stopper: str) -> None:
    on = rule(stopper, grace=3)
    for name in "abc":
        run(on, name, [-1.0, -0.9, -0.8, -0.7])
    assert run(on, "late", [-100.0, -100.0, -0.1, -0.1]) == 0


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_the_best_trial_is_never_stopped(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        run(on, name, [-1.0, -0.9, -0.8, -0.7])
    assert run(on, "best", [-0.5, -0.4, -0.3, -0.2]) == 0


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_nobody_is_stopped_on_the_last_evaluation(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        run(on, name, [-1.0, -0.9, -0.8, -0.7])
    assert run(on, "late loser", [-0.9, -0.8, -0.7, -50.0]) == 0


@pytest.mark.parametrize("stopper", ["asha", "median", "none"])
@pytest.mark.parametrize("bad", [-math.inf, math.nan])
def test_a_trial_without_a_finite_objective_is_stopped_at_once(stopper: str, bad: float) -> None:
    on = rule(stopper)
    assert run(on, "diverged", [bad, bad]) == 1
    assert on.stopped["diverged"] == "its scores are not finite"


def test_without_a_rule_the_worst_trial_runs_to_its_end() -> None:
    on = rule("none")
    run(on, "good", [-1.0] * 4)
    assert run(on, "bad", [-100.0] * 4) == 0


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_trials_are_compared_at_equal_training(stopper: str) -> None:
    """A young trial is worse than old ones are now, and better than they were at its age."""
    on = rule(stopper)
    for name in "abc":
        run(on, name, [-10.0, -5.0, -2.0, -1.0])
    assert run(on, "young", [-9.0, -4.5, -1.9, -0.9]) == 0


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_trials_of_an_earlier_run_of_the_sweep_count(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        on.replay(name, {1: -1.0, 2: -0.9, 3: -0.8, 4: -0.7})
    on.replay("diverged", {1: -math.inf})
    assert run(on, "hopeless", [-100.0, -100.0]) == 1


def test_asha_keeps_about_one_in_the_reduction() -> None:
    """From the worst to the best all go on; from the best to the worst all but the first are
    stopped."""
    up, down = rule(reduction=2), rule(reduction=2)
    assert [report(up, str(i), 1, float(i)) for i in range(8)] == [True] * 8
    assert [report(down, str(i), 1, float(-i)) for i in range(8)] == [True] + [False] * 7


def test_median_never_pauses_a_trial() -> None:
    """Ray's rule pauses while there are few rivals; a paused function trial would start again from
    nothing."""
    on = rule("median")
    assert all(report(on, name, 1, -1.0) for name in "abcdef")


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_the_default_settings_run_to_their_end_however_bad(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        run(on, name, [-1.0, -0.9, -0.8, -0.7])
    for marked in (True, False):
        trial = Trial(f"marked {marked}", {DEFAULT: marked})
        on.on_trial_add(None, trial)
        said = [
            on.on_trial_result(None, trial, {"objective": -100.0, "evaluation": number})
            for number in (1, 2, 3)
        ]
        assert (set(said) == {"CONTINUE"}) == marked
        assert (trial.trial_id in on.stopped) != marked


@pytest.mark.parametrize("stopper", ["asha", "median"])
def test_a_default_that_was_bad_is_replayed(stopper: str) -> None:
    on = rule(stopper)
    for name in "abc":
        on.replay(name, {1: -1.0, 2: -0.9, 3: -0.8, 4: -0.7})
    on.replay("default", {1: -9.0, 2: -9.0, 3: -9.0, 4: -9.0})
    assert run(on, "best", [-0.5, -0.4, -0.3, -0.2]) == 0
