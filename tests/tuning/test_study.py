"""The study on disk: what may change between two starts, what a kill leaves behind,
who may hold it."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse, set_key
from raytrain.errors import UserError
from tests.tuning.fake import make_config
from tuning import home, space, study


def changed(config: Config, key: str, value: Any) -> Config:
    tree = config.values()
    set_key(tree, key, value)
    return parse(tree)


def opened(config: Config) -> optuna.Study:
    with home.opened(config) as kept:
        return study.open_study(config, kept)


def ask(config: Config, on: optuna.Study) -> optuna.Trial:
    return on.ask(space.distributions(config))


def test_the_config_as_it_stands_is_the_first_trial(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    first = ask(config, opened(config))
    assert first.params == {"train.learning_rate": 1e-3, "method.rank": 4}
    assert first.user_attrs == {study.DEFAULT: True}


def test_without_the_default_the_first_trial_is_drawn(tmp_path: Path) -> None:
    config = make_config(tmp_path, include_default=False)
    assert ask(config, opened(config)).params["train.learning_rate"] != 1e-3


def test_a_default_outside_the_space_is_not_tried(tmp_path: Path) -> None:
    config = changed(make_config(tmp_path), "train.learning_rate", 5.0)
    assert study.DEFAULT not in ask(config, opened(config)).user_attrs


def test_the_sampler_is_seeded(tmp_path: Path) -> None:
    drawn = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        config = make_config(tmp_path / folder, include_default=False, seed=seed)
        drawn.append([ask(config, on).params for on in [opened(config)] for _ in range(3)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_sweep_that_goes_on_does_not_draw_its_first_points_again(tmp_path: Path) -> None:
    config = make_config(tmp_path, include_default=False)
    on = opened(config)
    first = ask(config, on)
    on.tell(first, 1.0)
    assert ask(config, opened(config)).params != first.params


def test_a_killed_trial_does_not_count_and_its_parameters_run_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    first = ask(config, opened(config))  # ... and the process dies here
    again = opened(config)
    assert again.trials[first.number].state == TrialState.FAIL
    assert study.finished(again) == []
    second = ask(config, again)
    assert (second.params, second.user_attrs) == (first.params, {study.DEFAULT: True})
    again.tell(second, 0.5)
    assert [t.number for t in study.finished(opened(config))] == [second.number]


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("tune.space", {"method.rank": {"choice": [2, 4, 8]}}, "tune.space"),
        ("tune.objective", {"clip_text": 1.0}, "tune.objective"),
        ("train.steps", 80, "train.steps: 40 then, 80 now"),
        ("sample.guidance_scale", 1.0, "sample.guidance_scale"),
        ("model.path", "elsewhere", "model.path"),
    ],
)
def test_another_search_in_the_same_folder_is_refused(
    tmp_path: Path, key: str, value: Any, named: str
) -> None:
    config = make_config(tmp_path)
    opened(config)
    with pytest.raises(UserError, match=named) as caught:
        opened(changed(config, key, value))
    assert "another output folder" in str(caught.value)


def test_another_dataset_in_the_same_place_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    opened(config)
    manifest = storage.join(config.dataset, "manifest.json")
    storage.write_json(manifest, {**storage.read_json(manifest), "fingerprint": "other"})
    with pytest.raises(UserError, match="dataset: 'f' then, 'other' now"):
        opened(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tune.trials", 16),
        ("tune.concurrent", 1),
        ("tune.stopper", "median"),
        ("train.cpus_per_worker", 2.0),
    ],
)
def test_more_trials_and_other_machines_are_the_same_search(
    tmp_path: Path, key: str, value: Any
) -> None:
    config = make_config(tmp_path)
    opened(config)
    opened(changed(config, key, value))


def test_two_sweeps_cannot_share_a_folder(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with home.opened(config):
        with pytest.raises(UserError, match="Another sweep is running"), home.opened(config):
            pass
    with home.opened(config):
        pass


def test_without_a_dataset_the_error_says_to_prepare(tmp_path: Path) -> None:
    config = changed(make_config(tmp_path), "data.dataset", str(tmp_path / "none"))
    with pytest.raises(UserError, match="Run `raytrain prepare`"):
        study.fingerprint(config)
