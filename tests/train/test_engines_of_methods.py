"""DDP and ZeRO train a ControlNet and text encoders in the step as one plain worker does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.train import worker
from tests.conftest import losses, workers_here
from tests.train import group

METHODS: dict[str, dict[str, Any]] = {
    "controlnet": {"name": "controlnet"},
    "text encoder": {"name": "lora", "rank": 4, "text_rank": 4},
}
ENGINES = ("plain", "ddp", "zero1", "zero2", "zero3")
REFUSED = {("text encoder", "zero3"): "misreads"}


@pytest.fixture
def make(world: Callable[[str], dict[str, Any]], tmp_path: Path) -> Callable[[str, str], Config]:
    """Return a maker of configs by method and engine, after each method's columns were added to a
    dataset."""
    base = world("sd15")
    tables = {}
    for name, method in METHODS.items():
        data = tables[name] = {
            **base["data"],
            "dataset": str(tmp_path / name),
            "controls": {"kind": "canny"},
        }
        shutil.copytree(base["data"]["dataset"], data["dataset"])
        with workers_here():
            prepare(parse({**base, "data": data, "method": method}))

    def config(method: str, engine: str) -> Config:
        train = {
            "steps": 4,
            "global_batch": 4,
            "micro_batch": 1,
            "learning_rate": 1e-3,
            "held_out_every": 0,
            "engine": engine,
            "workers": 1 if engine == "plain" else 2,
        }
        return parse(
            {
                **base,
                "output": str(tmp_path / f"{method}-{engine}"),
                "data": tables[method],
                "method": METHODS[method],
                "train": train,
                "sample": {"steps": 1, "max_prompts": 1},
                "evaluate": {"timesteps": 1, "max_held_out": 2},
                "log": {"tensorboard": False},
            }
        )

    return config


def test_all_follow_one_loss_curve(make: Callable[[str, str], Config], tmp_path: Path) -> None:
    pairs = {(method, engine) for method in METHODS for engine in ENGINES} - REFUSED.keys()
    runs = {(method, engine): make(method, engine) for method, engine in sorted(pairs)}
    for world_size in (1, 2):
        group.train(
            [run for run in runs.values() if run.train.workers == world_size], world_size, tmp_path
        )
    for (method, engine), run in runs.items():
        expected = losses(runs[method, "plain"])
        assert len(set(expected)) == 4
        assert losses(run) == pytest.approx(expected, abs=1e-6), (method, engine)


@pytest.mark.parametrize(("method", "engine"), REFUSED)
def test_what_shards_do_not_go_with_is_told(
    make: Callable[[str, str], Config], method: str, engine: str
) -> None:
    config = make(method, engine)
    alone = config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})})
    with pytest.raises(UserError, match=REFUSED[method, engine]):
        worker.train(alone)


def test_a_rate_of_its_own_is_not_for_shards(make: Callable[[str, str], Config]) -> None:
    config = make("text encoder", "zero2")
    own = config.method.model_copy(update={"text_rate": 0.5})
    alone = config.model_copy(
        update={"method": own, "train": config.train.model_copy(update={"workers": 1})}
    )
    with pytest.raises(UserError, match="keeps one learning rate"):
        worker.train(alone)
