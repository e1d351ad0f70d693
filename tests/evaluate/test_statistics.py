"""Intervals, comparisons and the verdict sentences."""

from __future__ import annotations

import math

import numpy
import pytest

from raytrain.evaluate.statistics import Difference, Outcome, chance, compare, interval, summarize
from raytrain.evaluate.verdict import headline, overfit, series


def draws(count: int, mean: float = 0.0, spread: float = 1.0, seed: int = 0) -> list[float]:
    return [float(v) for v in numpy.random.default_rng(seed).normal(mean, spread, count)]


def test_an_interval_holds_its_mean_and_is_the_same_for_the_same_values() -> None:
    score = summarize(draws(30, 2), "higher", "x")
    assert score.low < score.mean < score.high
    assert score == summarize(draws(30, 2), "higher", "x")
    assert score.count == 30


def test_the_interval_is_about_as_wide_as_theory_says() -> None:
    values = draws(400)
    _, low, high = interval(values, 2000, 0.95, 0)
    assert high - low == pytest.approx(2 * 1.96 * numpy.std(values) / 20, rel=0.1)


def test_more_confidence_is_a_wider_interval() -> None:
    narrow, wide = (interval(draws(25), 1000, share, 0) for share in (0.8, 0.99))
    assert wide[1] < narrow[1] < narrow[2] < wide[2]


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = sum(
        low <= 1 <= high
        for seed in range(200)
        for _, low, high in [interval(draws(20, 1, 1, seed), 200, 0.9, 0)]
    )
    assert 160 <= held <= 195


@pytest.mark.parametrize("values", [[0.3], [0.3] * 5, [1e-9] * 3, [0.0, 0.0]])
def test_one_value_or_equal_values_have_no_width(values: list[float]) -> None:
    assert interval(values, 1000, 0.95, 0) == (values[0], values[0], values[0])


def test_many_values_take_the_memory_saving_path() -> None:
    mean, low, high = interval(draws(5000), 200, 0.95, 0)
    assert low < mean < high


def test_no_values_and_values_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval([], 1000, 0.95, 0)
    assert all(math.isnan(v) for v in interval([1.0, math.nan], 1000, 0.95, 0))


@pytest.mark.parametrize(
    ("gain", "better", "outcome"),
    [
        (0.5, "higher", "better"),
        (0.5, "lower", "worse"),
        (-0.5, "lower", "better"),
        (0.0, "higher", "unclear"),
    ],
)
def test_a_paired_difference_has_the_right_sign_and_outcome(
    gain: float, better: str, outcome: str
) -> None:
    base = draws(16, 10, 5)
    tuned = [value + gain + noise for value, noise in zip(base, draws(16, 0, 0.2, 1), strict=True)]
    found = compare(base, tuned, better, "x")  # type: ignore[arg-type]
    assert found.mean == pytest.approx(gain, abs=0.15)
    assert found.outcome == outcome, (
        "pairing sees a difference far below the spread of the samples"
    )
    assert found.base == pytest.approx(numpy.mean(base))


@pytest.mark.parametrize(("count", "outcome"), [(1, "unclear"), (5, "unclear"), (6, "better")])
def test_five_pairs_never_decide_however_well_they_agree(count: int, outcome: str) -> None:
    assert compare([0.0] * count, [1.0] * count, "higher", "x").outcome == outcome


def test_chance_is_the_share_of_sign_choices_that_do_as_well() -> None:
    assert chance([1.0, 2.0, 3.0]) == 2 / 8
    assert chance([1.0, -1.0]) == 1.0
    assert chance([1.0] * 20) == pytest.approx(1e-4)


def test_equal_models_are_seldom_told_apart() -> None:
    wrong = sum(
        compare(draws(8, seed=s), draws(8, seed=s + 1000), "higher", "x", 200).outcome != "unclear"
        for s in range(100)
    )
    assert wrong <= 10


def test_only_equally_many_values_can_be_compared() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        compare([1.0, 2.0], [1.0], "higher", "x")


def difference(label: str, outcome: Outcome, mean: float = 0.1, base: float = 0.3) -> Difference:
    return Difference(mean, mean - 0.01, mean + 0.01, 16, base, outcome, "higher", label)


def curve(key: str, *values: float) -> list[dict[str, float]]:
    return [{"step": 100 * i, key: value} for i, value in enumerate(values)]


def test_a_falling_held_out_loss_is_healthy() -> None:
    found = overfit(curve("held_out_loss", 0.2, 0.15, 0.12, 0.121))
    assert found.state == "healthy"
    assert found.sentence == "The held-out loss fell 40% and shows no overfitting."
    assert found.best_step == 200


def test_a_rising_held_out_loss_is_overfitting_and_names_the_step_to_go_back_to() -> None:
    found = overfit(curve("held_out_loss", 0.2, 0.1, 0.11, 0.13))
    assert found.state == "overfit"
    assert found.sentence == (
        "The held-out loss was lowest at step 100 and has risen 30% since: the model is "
        "overfitting. Use the checkpoint near step 100, or train for fewer steps."
    )


def test_a_loss_that_only_rose_is_a_learning_rate_too_high() -> None:
    found = overfit(curve("held_out_loss", 0.2, 0.3, 0.4))
    assert found.state == "worse"
    assert "never fell below its start and ended 100% above it" in found.sentence


def test_more_training_alignment_with_less_text_alignment_is_memorizing() -> None:
    found = overfit(
        [],
        {
            "clip_image": difference("Training alignment", "better"),
            "clip_text": difference("Text", "worse"),
        },
    )
    assert found.state == "overfit"
    assert found.sentence.startswith(
        "The images resemble the training images more while following their prompts less"
    )


def test_the_same_is_seen_in_curves() -> None:
    rows = [
        {"step": i, "clip_image": image, "clip_text": text}
        for i, (image, text) in enumerate([(0.5, 0.3), (0.6, 0.32), (0.7, 0.25)])
    ]
    assert overfit(rows).state == "overfit"


@pytest.mark.parametrize(("lost", "state"), [(-0.05, "healthy"), (-0.2, "overfit")])
def test_a_style_may_narrow_the_images_but_not_make_them_one(lost: float, state: str) -> None:
    narrowed = {
        "clip_image": difference("Training alignment", "better"),
        "diversity": difference("Diversity", "worse", mean=lost, base=0.4),
    }
    assert overfit([], narrowed).state == state


def test_less_text_alignment_alone_is_not_memorizing() -> None:
    assert overfit([], {"clip_text": difference("Text", "worse")}).state == "healthy"


def test_nothing_measured_is_nothing_known() -> None:
    assert overfit([]).state == "unknown"
    assert overfit([{"step": 1, "held_out_loss": 0.1}]).state == "unknown"


def test_the_headline_names_what_won_and_what_lost() -> None:
    better, worse, unclear = (
        difference(n, o)
        for n, o in (("Text", "better"), ("Diversity", "worse"), ("Loss", "unclear"))
    )  # type: ignore[arg-type]
    assert headline({"a": better}) == "The tuned model beats the base model on text."
    assert headline({"a": better, "b": worse, "c": unclear}) == (
        "The tuned model beats the base model on text and loses on diversity; loss is undecided."
    )
    assert (
        headline({"b": worse, "c": unclear})
        == "The tuned model is worse than the base model on diversity; loss is undecided."
    )
    assert headline({"c": unclear}).startswith(
        "No score tells the tuned model from the base model"
    )
    assert headline({}) == "The tuned model has not been compared with the base model."


def test_of_a_step_measured_twice_the_later_counts_and_gaps_are_passed_over() -> None:
    rows = [
        {"step": 2, "x": 5.0},
        {"step": 1, "x": 1.0},
        {"step": 2, "x": 2.0},
        {"step": 3, "y": 0},
        {"step": 4, "x": math.nan},
    ]
    assert series(rows, "x") == [(1, 1.0), (2, 2.0)]
