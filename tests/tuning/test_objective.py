"""One number out of many scores."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.errors import UserError
from tuning import objective

WEIGHTS = {"held_out_loss": -2.0, "clip_text": 1.0}


def test_it_is_the_weighted_sum() -> None:
    assert objective.value(
        {"held_out_loss": 0.25, "clip_text": 0.3, "other": 9.0}, WEIGHTS
    ) == pytest.approx(-0.2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_a_score_that_is_no_finite_number_is_worst(bad: float | None) -> None:
    assert objective.value({"held_out_loss": bad, "clip_text": 0.3}, WEIGHTS) == objective.WORST


def test_a_missing_score_is_worst() -> None:
    assert objective.value({"clip_text": 0.3}, WEIGHTS) == objective.WORST


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_no_finite_scores_are_worse_than_worst(loss: float, clip: float) -> None:
    assert objective.value({"held_out_loss": loss, "clip_text": clip}, WEIGHTS) > objective.WORST


def test_a_score_that_nobody_computes_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'clip_text'"):
        objective.check({"clip_txt": 1.0}, ("clip_text", "diversity"), 0.1)
    objective.check({"clip_text": 1.0}, ("clip_text", "diversity"), 0.1)


@pytest.mark.parametrize("weights", [{}, {"clip_text": 0.0}])
def test_weights_that_weigh_nothing_are_an_error(weights: dict[str, float]) -> None:
    with pytest.raises(UserError, match=r"tune\.objective"):
        objective.check(weights, ("clip_text",), 0.1)
