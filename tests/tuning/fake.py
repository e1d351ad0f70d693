"""A training run that takes no time: the score is a known function of the learning rate.

Used by the sweep's tests.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytrain import storage
from raytrain.config import Config
from raytrain.config import file as config_file
from raytrain.config.file import parse
from raytrain.data.store.schema import Manifest

BEST = 1e-3


def make_config(folder: Path | str, **changes: object) -> Config:
    """A sweep over the learning rate and the rank, with a dataset that has a manifest and no
    rows."""
    root = str(folder)
    manifest = Manifest(
        family="sd15", columns={}, fingerprint="f",
        buckets={"64x64": {"train": 20, "held_out": 4, "entries": 20}}, parts=(), shards={},
    )  # fmt: skip
    dataset = storage.join(root, "dataset")
    storage.write_json(storage.join(dataset, "manifest.json"), manifest.model_dump(mode="json"))
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
        "output": storage.join(root, "run"),
        "model": {"path": "nowhere"},
        "method": {"name": "lora", "rank": 4},
        "data": {"dataset": dataset},
        "train": {"steps": 40, "learning_rate": 1e-3},
        "tune": {**tune, **changes},
    }
    return parse(tree)


def train(config: Config, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
    """Report a held-out loss that grows with the distance of the learning rate from the best one.

    With a file `hold` in the sweep's folder that says n, a trial that finds n others done stays at
    its second evaluation until its sweep is ended.
    """
    assert not storage.exists(storage.join(config.output, "weights"))
    sweep, number = _parts(config.output)
    rate = config.train.learning_rate
    metrics: dict[str, float] = {}
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
        storage.write_json(storage.join(sweep, "calls", number, f"{step:03}.json"), note)
        report(metrics)
        while step > every and _held(sweep):
            time.sleep(0.1)
    storage.write_bytes(storage.join(config.output, "weights"), str(rate).encode())
    return metrics


def usurped(config: Config, report: Callable[[dict[str, float]], None]) -> dict[str, float]:
    """Train while another driver takes the sweep over."""
    sweep, _ = _parts(config.output)
    note = {"owner": "other", "host": "elsewhere", "process": 7, "beat": time.time()}
    storage.write_json(storage.join(sweep, "lease.json"), note)
    return train(config, report)


def hold(config: Config, trials: int) -> None:
    """Let a sweep's trials wait once so many are done; the file alone says so, to processes that
    are started later too."""
    storage.write_json(storage.join(config.output, "tune", "hold"), trials)


def done(sweep: str) -> list[int]:
    """Return the numbers of the trials of a sweep's folder that came to their end."""
    found = storage.files(storage.join(sweep, "trials"))
    return [int(file.path.split("/")[0]) for file in found if file.path.endswith("/weights")]


def calls(config: Config) -> dict[int, list[dict[str, Any]]]:
    """Return what every trial's process noted at each of its evaluations."""
    folder = storage.join(config.output, "tune", "calls")
    found: dict[int, list[dict[str, Any]]] = {}
    for file in sorted(storage.files(folder)):
        number, name = file.path.split("/")
        found.setdefault(int(number), []).append(
            storage.read_json(storage.join(folder, number, name))
        )
    return found


def _held(sweep: str) -> bool:
    wanted = storage.join(sweep, "hold")
    return storage.exists(wanted) and len(done(sweep)) >= storage.read_json(wanted)


def _parts(output: str) -> tuple[str, str]:
    """Return the sweep's folder and the number of a trial from its output."""
    place, mark, query = output.partition("?")
    sweep, _, number = place.rsplit("/", 2)
    return sweep + mark + query, number


def main(path: str, address: str, stale: str) -> None:
    """Run the sweep of a config in this process, on the Ray at an address or, with `local`, a
    private one; for tests that kill it."""
    from cluster.connect import connect
    from tuning.sweep import sweep

    with connect(address, num_cpus=2, object_store_mb=100):
        sweep(config_file.load(path), train, stale=float(stale))
    heavy = {"torch", "diffusers", "transformers"} & sys.modules.keys()
    print(f"loaded {sorted(heavy)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
