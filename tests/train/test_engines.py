"""Every engine follows one loss curve, and goes on from every other's checkpoint: two workers, tiny models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raytrain import checkpoint
from raytrain.config import Config
from raytrain.train import worker
from tests.conftest import losses
from tests.train import group

ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"engine": "plain"},
    "ddp": {"engine": "ddp"},
    "zero1": {"engine": "zero1"},
    "zero2": {"engine": "zero2"},
    "zero3": {"engine": "zero3"},
    "zero3-offload": {"engine": "zero3", "offload": "weights"},
}
STEPS, SAVED = 30, 15
TRAIN = {"steps": STEPS, "checkpoint_every": SAVED, "micro_batch": 1, "learning_rate": 1e-3, "held_out_every": 0,
         "keep_checkpoints": 3, "ema": 0.9}  # fmt: skip
WHOLE = bool(os.environ.get("RAYTRAIN_WHOLE_MATRIX"))
"""Every pair of engines for both methods and precisions; otherwise every pair for one of the four, and each engine's
checkpoint under its successor for the others."""


def train_all(configs: Sequence[Config], folder: Path) -> None:
    """Train each config with the number of workers its engine is for."""
    for config in configs:
        if config.train.engine == "plain":
            worker.train(config)
    group.train([config for config in configs if config.train.engine != "plain"], 2, folder)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_one_loss_curve(run_config: Callable[..., Config], tmp_path: Path, method: str, precision: str) -> None:
    tolerance = {"fp32": 1e-4, "bf16": 2e-2}[precision]

    def config(name: str, engine: str) -> Config:
        workers = 1 if engine == "plain" else 2
        train = {**TRAIN, **ENGINES[engine], "precision": precision, "workers": workers}
        return run_config(name=name, method={"name": method}, train=train)

    whole = {engine: config(engine, engine) for engine in ENGINES}
    train_all(list(whole.values()), tmp_path)
    expected = losses(whole["plain"])
    assert len(expected) == STEPS
    for engine, each in whole.items():
        assert losses(each) == pytest.approx(expected, abs=tolerance), engine

    names = list(ENGINES)
    every = WHOLE or (method, precision) == ("lora", "fp32")
    pairs = [(a, b) for a in names for b in (names if every else [names[names.index(a) - 1]])]
    resumed = {(a, b): config(f"{a}-then-{b}", b) for a, b in pairs}
    for (a, _), each in resumed.items():
        step = f"checkpoints/step-{SAVED:08d}"
        shutil.copytree(Path(whole[a].output, step), Path(each.output, step))
    train_all(list(resumed.values()), tmp_path)
    end = {name: checkpoint.load(checkpoint.find(each.output) or "") for name, each in whole.items()}
    for pair, each in resumed.items():
        assert losses(each) == pytest.approx(expected[SAVED:], abs=tolerance), pair
        last = checkpoint.load(checkpoint.find(each.output) or "")
        assert last.ema is not None
        for name, value in (end["plain"].ema or {}).items():
            assert last.ema[name].numpy() == pytest.approx(value.numpy(), abs=tolerance), (pair, name)
