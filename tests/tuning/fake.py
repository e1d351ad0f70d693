"""A training run that takes no time: the score is a known function of the learning rate.

Used by the sweep's tests.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.store.schema import Manifest

BEST = 1e-3


def make_config(folder: Path, **changes: object) -> Config:
    """A sweep over the learning rate and the rank, with a dataset that has a manifest and no
    rows."""
    manifest = Manifest(
        family="sd15", columns={}, fingerprint="f",
        buckets={"64x64": {"train": 20, "held_out": 4, "entries": 20}}, parts=(), shards={},
    )  # fmt: skip
    storage.write_json(str(folder / "dataset" / "manifest.json"), manifest.model_dump(mode="json"))
    tune = {
        "trials": 8,
        "concurrent": 2,
        "evaluations": 4,
        "objective": {"held_out_loss": -1.0, "clip_text": 0.1},
        "space": {
            "train.learning_rate": {"log": [1e-6, 1.0]},
            "method.rank": {"choice": [2, 4, 8]},
        },
    }
    tree = {
        "output": str(folder / "run"),
        "model": {"path": "nowhere"},
        "method": {"name": "lora", "rank": 4},
        "data": {"dataset": str(folder / "dataset")},
        "train": {"steps": 40, "learning_rate": 1e-3},
        "tune": {**tune, **changes},
    }
    return parse(tree)


def train(config: Config, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
    """Report a held-out loss that grows with the distance of the learning rate from the best one.

    With FAKE_TRIALS = n, a trial that finds n others done stays at its second evaluation until its
    sweep is ended.
    """
    Path(config.output).mkdir(parents=True)
    seen = Path(config.output).parent.parent / "calls"
    seen.mkdir(exist_ok=True)
    rate = config.train.learning_rate
    metrics: dict[str, float] = {}
    holding = int(os.environ.get("FAKE_TRIALS", "1000"))
    if config.values()["method"]["rank"] == 13:
        raise ValueError("thirteen")
    every = int(config.train.score_every.number)
    for step in range(every, 41, every):
        loss = abs(math.log10(rate / BEST)) + 1.0 / step
        metrics = {
            "step": step,
            "held_out_loss": math.nan if rate > 0.5 else loss,
            "clip_text": 0.3,
        }
        note = {
            "pid": os.getpid(),
            "cwd": os.getcwd(),
            "output": config.output,
            "dataset": config.dataset,
        }
        with open(seen / Path(config.output).name, "a") as file:
            file.write(json.dumps(note) + "\n")
        report(metrics)
        while step > every and len(list(seen.parent.glob("trials/*/weights"))) >= holding:
            time.sleep(0.1)
    (Path(config.output) / "weights").write_text(str(rate))
    return metrics


def main(folder: str) -> None:
    """Run the sweep in this process, for tests that kill it."""
    from cluster.connect import connect
    from tuning.sweep import sweep

    with connect(num_cpus=2, object_store_mb=100):
        sweep(make_config(Path(folder), stopper="none"), train)


if __name__ == "__main__":
    main(sys.argv[1])
