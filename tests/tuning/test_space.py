"""Searched keys, their ranges, and the mistakes that are found before Ray starts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import UserError
from tuning import space


def config(**searched: dict[str, Any]) -> Config:
    keys = {key.replace("__", "."): value for key, value in searched.items()}
    return parse({"output": "out", "model": {"path": "p"}, "tune": {"space": keys}})


def test_each_kind_of_range_becomes_its_distribution() -> None:
    found = space.distributions(
        config(
            train__learning_rate={"log": [1e-5, 1e-2]},
            train__weight_decay={"linear": [0.0, 0.1]},
            train__warmup={"int": [0, 10]},
            method__rank={"choice": [4, 8]},
        )
    )
    assert found == {
        "train.learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "train.weight_decay": FloatDistribution(0.0, 0.1),
        "train.warmup": IntDistribution(0, 10),
        "method.rank": CategoricalDistribution([4, 8]),
    }


def test_parameters_are_put_into_the_config_and_the_rest_stays() -> None:
    base = config(train__learning_rate={"log": [1e-5, 1e-2]})
    changed = space.apply(base, {"train.learning_rate": 0.005, "method.rank": 4})
    assert changed.train.learning_rate == 0.005
    assert changed.values()["method"]["rank"] == 4
    assert changed.objective == base.objective
    assert base.train.learning_rate != 0.005


def test_a_key_that_does_not_exist_names_the_nearest_one() -> None:
    with pytest.raises(
        UserError, match=r"train\.learning_rte.*Did you mean 'train\.learning_rate'"
    ):
        space.check(config(train__learning_rte={"log": [1e-5, 1e-2]}))


def test_a_table_is_no_key() -> None:
    with pytest.raises(UserError, match="'train' is a table"):
        space.check(config(train={"choice": [1]}))


def test_an_empty_space_is_an_error() -> None:
    with pytest.raises(UserError, match="empty"):
        space.check(config())


@pytest.mark.parametrize(
    ("searched", "key"),
    [
        (
            {"train__learning_rate": {"linear": [0.0, 0.1]}},
            "train.learning_rate",
        ),  # the low bound is not allowed
        ({"train__ema": {"linear": [0.5, 1.5]}}, "train.ema"),  # the high bound is not allowed
        ({"train__warmup": {"linear": [1.0, 9.0]}}, "train.warmup"),  # a whole number is wanted
        ({"train__optimizer": {"choice": ["adamw", "adam"]}}, "train.optimizer"),
        ({"method__rank": {"choice": [4, True]}}, "method.rank"),
    ],
)
def test_bounds_that_the_config_refuses_are_found_before_anything_runs(
    searched: dict[str, Any], key: str
) -> None:
    with pytest.raises(UserError, match=key):
        space.check(config(**searched))


def test_values_that_are_allowed_alone_and_not_together_are_found() -> None:
    with pytest.raises(UserError, match="multiple of workers"):
        space.check(config(train__workers={"int": [1, 2]}, train__global_batch={"int": [4, 5]}))


def test_lists_and_nothing_can_be_choices() -> None:
    base = config(
        train__betas={"choice": [[0.9, 0.999], [0.8, 0.99]]}, train__ema={"choice": [0.99, "off"]}
    )
    stored = space.encode(base, {"train.betas": [0.8, 0.99], "train.ema": 0.99})
    assert stored["train.betas"] in space.distributions(base)["train.betas"].choices
    assert space.decode(base, stored) == {"train.betas": [0.8, 0.99], "train.ema": 0.99}
    assert space.apply(base, space.decode(base, stored)).train.betas == (0.8, 0.99)


def test_another_optimizer_has_its_own_learning_rate() -> None:
    base = config(train__optimizer={"choice": ["adamw", "prodigy", "came"]})
    assert space.apply(base, {"train.optimizer": "prodigy"}).train.learning_rate == 1.0
    assert space.apply(base, {"train.optimizer": "came"}).train.betas is None
    both = {"train.optimizer": "prodigy", "train.learning_rate": 0.5}
    assert space.apply(base, both).train.learning_rate == 0.5


def test_default_parameters_are_the_config_s_own_values_inside_the_ranges() -> None:
    base = config(
        train__learning_rate={"log": [1e-5, 1e-2]},  # default 1e-4
        train__global_batch={"choice": [2, 8]},  # default 4
        train__betas={"choice": [[0.9, 0.999], [0.8, 0.99]]},
    )
    assert space.default_parameters(base) == {
        "train.learning_rate": 1e-4,
        "train.betas": [0.9, 0.999],
    }


@given(st.floats(1e-5, 1e-2), st.sampled_from([4, 8]))
@settings(max_examples=25)
def test_what_is_stored_comes_back(rate: float, rank: int) -> None:
    base = config(train__learning_rate={"log": [1e-5, 1e-2]}, method__rank={"choice": [4, 8]})
    values = {"train.learning_rate": rate, "method.rank": rank}
    assert space.decode(base, space.encode(base, values)) == values
    assert space.default_parameters(space.apply(base, values)) == values


def test_the_space_imports_no_torch() -> None:
    code = "import tuning.space, tuning.objective, sys; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False
        ).returncode
        == 0
    )


def test_a_default_outside_its_range_is_told() -> None:
    wanted = config(train__learning_rate={"log": [1e-3, 1e-2]}, method__rank={"choice": [4, 16]})
    [told] = space.notes(wanted)
    assert "train.learning_rate = 0.0001 lies outside its range" in told
    tune = wanted.tune.model_copy(update={"include_default": False})
    assert not space.notes(wanted.model_copy(update={"tune": tune}))
