"""Every engine follows one loss curve, and goes on from every other's checkpoint: two workers,
tiny models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raytrain import checkpoint
from raytrain.config import Config
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
WHOLE = bool(os.environ.get("RAYTRAIN_WHOLE_MATRIX"))
"""Both methods in both precisions for 30 steps, and every engine's checkpoint under every other
(`make engines`); otherwise one of the four, shorter, and each engine's checkpoint under one
other."""
COMBINATIONS = (
    [(method, precision) for method in ("lora", "full") for precision in ("fp32", "bf16")]
    if WHOLE
    else [("lora", "fp32")]
)
STEPS, SAVED = (30, 15) if WHOLE else (8, 4)
TRAIN = {
    "steps": STEPS,
    "checkpoint_every": SAVED,
    "micro_batch": 1,
    "learning_rate": 1e-3,
    "held_out_every": 0,
    "keep_checkpoints": 3,
    "ema": 0.9,
}


def train_all(configs: Sequence[Config], folder: Path, until: int | None = None) -> None:
    """Train each config with the number of workers its engine is for."""
    for world_size in (1, 2):
        group.train(
            [config for config in configs if config.train.workers == world_size],
            world_size,
            folder,
            until=until,
        )


@pytest.mark.slow
@pytest.mark.parametrize(("method", "precision"), COMBINATIONS)
def test_one_loss_curve(
    run_config: Callable[..., Config], tmp_path: Path, method: str, precision: str
) -> None:
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

    end = {
        name: checkpoint.load(checkpoint.find(each.output) or "") for name, each in whole.items()
    }

    names = list(ENGINES)
    ring = dict(zip(names, [*names[1:], names[0]], strict=True))
    others = {(a, b) for a in names for b in names if ring[a] != b} if WHOLE else set()
    resumed = {(a, b): config(f"{a}-then-{b}", b) for a, b in {*ring.items(), *others}}
    for (a, _), each in resumed.items():
        step = f"checkpoints/step-{SAVED:08d}"
        shutil.copytree(Path(whole[a].output, step), Path(each.output, step))
    train_all([resumed[pair] for pair in ring.items()], tmp_path)
    train_all([resumed[pair] for pair in others], tmp_path, until=SAVED + 5)
    for (a, b), each in resumed.items():
        found = losses(each)
        assert len(found) == (5 if (a, b) in others else STEPS - SAVED)
        assert found == pytest.approx(expected[SAVED:][: len(found)], abs=tolerance), (a, b)
        if (a, b) in others:
            continue
        last = checkpoint.load(checkpoint.find(each.output) or "")
        assert last.ema is not None
        for name, value in (end["plain"].ema or {}).items():
            assert last.ema[name].numpy() == pytest.approx(value.numpy(), abs=tolerance), (
                a,
                b,
                name,
            )
