"""A run whose node is about to be taken saves in time, and goes on elsewhere with no step done
twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config.period import Every
from raytrain.train import launch, worker
from raytrain.train.hooks import periodic
from raytrain.train.hooks.preemption import Preemption
from tests.conftest import losses


def test_a_notice_ends_a_run_after_its_step(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the third step, from Ray, in its words."""
    import ray.train
    from ray.train import PreemptionInfo

    config, whole = run_config(), run_config(name="whole")
    worker.train(whole)
    asked = 0

    def get_preemption_info() -> PreemptionInfo | None:
        nonlocal asked
        asked += 1
        deadline = round(1000 * time.time() + 30_000)
        return PreemptionInfo(deadline, {"0123456789": [0]}) if asked >= 3 else None

    monkeypatch.setattr(ray.train, "get_preemption_info", get_preemption_info)
    monkeypatch.setattr(periodic, "EVERY", Every(1))
    launch.work(config, rank=0, world_size=1, report=None, preemption=Preemption())
    failure = storage.read_json(storage.join(config.output, launch.FAILURE))
    assert failure["kind"] == launch.AGAIN
    assert failure["message"].startswith("Ray is about to lose node 01234567 within ")
    assert checkpoint.load(checkpoint.find(config.output) or "").step == 3
    storage.remove(storage.join(config.output, launch.FAILURE))
    asked = -100
    launch.work(config, rank=0, world_size=1, report=None, preemption=Preemption())
    assert losses(config) == losses(whole)
