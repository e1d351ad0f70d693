"""Another number of workers in the middle of an epoch: the same rows, once each,
and the same losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain.config import Config
from raytrain.train import worker
from raytrain.train.record import sample_log
from raytrain.train.record.audit import audit
from tests.conftest import losses
from tests.train import group

TRAIN = {
    "steps": None,
    "epochs": 3,
    "global_batch": 4,
    "learning_rate": 3e-3,
    "checkpoint_every": 3,
    "engine": "ddp",
}


def test_four_workers_then_three_then_four(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    one = run_config(name="one", train={**TRAIN, "engine": "plain"})
    worker.train(one)
    several = run_config(name="several", train={**TRAIN, "workers": 4})
    group.train(
        several, 4, tmp_path, until=5
    )  # two steps after its checkpoint: three workers do them again
    group.train(several, 3, tmp_path, until=10)  # which do not divide the batch of four
    group.train(several, 4, tmp_path)
    assert losses(several) == pytest.approx(losses(one), abs=1e-4)
    found = audit(several)
    assert found.broken == ()
    assert found.ranks is not None
    assert sorted(found.ranks) == [0, 1, 2, 3]
    first, second = (sample_log.read(config.output, found.steps) for config in (one, several))
    assert first is not None
    assert second is not None
    assert first.select(["step", "id", "occurrence"]) == second.select(
        ["step", "id", "occurrence"]
    )
