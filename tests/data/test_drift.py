"""A run whose settings are not those of its dataset is told so, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.plan import show
from jobs.render.progress import Terminal
from raytrain import plan, storage
from raytrain.config import Config
from raytrain.config.data import DataConfig
from raytrain.data.prepare import prepare
from raytrain.data.store import drift
from raytrain.train import launch

Make = Callable[..., Config]
SUBSETS = [{"source": "a"}, {"source": "b"}]


def settings(**data: Any) -> dict[str, Any]:
    return DataConfig(**data).model_dump(mode="json")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ({}, {}, []),
        ({"held_out": 0.1}, {"held_out": 0.2}, ["data.held_out 0.1 -> 0.2"]),
        ({}, {"buckets": {"resolution": 768}}, ["data.buckets.resolution 512 -> 768"]),
        ({}, {"captions": {"trigger": "sks"}}, ['data.captions.trigger "" -> "sks"']),
        ({"source": "a"}, {"source": "b"}, ['data.source "a" -> "b"']),
        (
            {"subsets": SUBSETS},
            {"subsets": [SUBSETS[0], {"source": "b", "repeats": 3}]},
            ["data.subsets.1.repeats 1 -> 3"],
        ),
        (
            {"encode": {"precision": "fp32"}},
            {"encode": {"precision": "bf16"}},
            ['data.encode.precision "fp32" -> "bf16"'],
        ),
        (
            {},
            {
                "encode": {"workers": 4, "shard_rows": 7},
                "snapshot": "2",
                "repeats": 5,
                "dataset": "d",
            },
            [],
        ),
    ],
)
def test_what_changes_a_dataset_is_named(
    old: dict[str, Any], new: dict[str, Any], found: list[str]
) -> None:
    assert drift.differences(settings(**old), settings(**new)) == found


def test_a_subset_more_and_a_setting_of_another_version() -> None:
    [one] = drift.differences(settings(subsets=SUBSETS[:1]), settings(subsets=SUBSETS))
    assert one.startswith("data.subsets [")
    old = settings()
    del old["buckets"]["crop"], old["augment"]
    assert (
        drift.differences(old, settings(buckets={"crop": "random"}, augment={"flip": True})) == []
    )


def test_the_line_stays_short() -> None:
    changed = settings(
        held_out=0.2,
        background="black",
        buckets={"resolution": 64, "step": 32, "rule": "kohya", "crop": "random"},
    )
    assert drift.note(settings(), changed).endswith(
        "and 2 more; run `raytrain prepare` to bring it up to date"
    )


@pytest.mark.usefixtures("here")
def test_plan_and_train_tell_it_until_the_dataset_is_prepared_again(
    source: Path,
    make_config: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, wanted = make_config(), make_config(quality={"min_side": 8}, encode={"shard_rows": 9})
    told = (
        "the dataset was prepared with other settings: data.quality.min_side 0 -> 8; run "
        "`raytrain prepare`"
    )

    def shown(config: Config) -> str:
        trained = storage.join(config.output, "train.json")
        monkeypatch.setattr(launch, "_trainer", lambda *_: Trained(trained))
        storage.remove(trained)
        capsys.readouterr()
        launch.launch(config, show=Terminal())
        return capsys.readouterr().out

    prepare(made)
    assert plan.plan(made).note == ""
    assert "other settings" not in shown(made)
    assert plan.plan(wanted).note.startswith(told)
    assert f"note: {told}" in shown(wanted)
    monkeypatch.setenv("COLUMNS", "300")
    show(plan.plan(wanted))
    assert f"note: {told}" in capsys.readouterr().out
    report = prepare(wanted)
    assert (report.made, report.snapshot) == ({}, 2), (
        "the same rows, but a snapshot that says what it was made with"
    )
    assert plan.plan(wanted).note == ""
    assert prepare(wanted).snapshot == 2


class Trained:
    """Stands for Ray Train: writes the result of a run at once."""

    def __init__(self, result: str) -> None:
        self.result = result

    def fit(self) -> None:
        storage.write_json(self.result, {"loss": 1.0})
