"""What training pays for images that are still being encoded: `python -m tests.bench.growing`.

A Ray of a head without CPUs and two nodes, each held to a core of its own: two encoders fill the
first, one trainer the second. `raytrain prepare` encodes a folder, and `raytrain train` trains
meanwhile, from the first snapshot on (`data.snapshot = "growing"`); then the same steps again on
the dataset as it is in the end, with nothing beside it. Compared are the images a second of the
steps that were taken while the dataset grew, and of the same steps of the second run; both runs
are audited.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from raytrain import checkpoint
from raytrain.config import Config
from raytrain.config.file import load, parse, to_toml
from raytrain.log import read_metrics
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder
from raytrain.train.order import segments_of
from raytrain.train.record.audit import audit
from tests.bench.__main__ import machine
from tests.bench.first_step import command_of

ENCODERS = 2
CPUS = 4
"""That an encoder asks for, so that its node has room for two of them alone."""
LOG_EVERY = 5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growing", description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--publish-minutes", type=float, default=0.25)
    parser.add_argument("--output", default="growing.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raytrain-growing-") as folder, nodes() as address:
        draw_folder(Path(folder, "images"), options.images, style="neon", seed=0)
        config = write_config(Path(folder), address, options.steps, options.publish_minutes)
        encoding = subprocess.Popen(command_of("prepare", config), stdout=subprocess.DEVNULL)
        run("train", config, "output=" + str(Path(folder, "grown")))
        if encoding.wait():
            raise RuntimeError(f"preparing ended with {encoding.returncode}")
        run("train", config, "output=" + str(Path(folder, "warm")), "data.snapshot=latest")
        figures = compared(*(at(config, Path(folder, name)) for name in ("grown", "warm")))
    print(machine())
    print(json.dumps(figures, indent=2))
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def compared(grown: Config, warm: Config) -> dict[str, Any]:
    """Compare the steps that one run took while its dataset grew with the same of the other."""
    folder = checkpoint.find(grown.output)
    assert folder is not None
    segments = segments_of(checkpoint.read_state(folder))
    until = segments[-1].step
    rows = {name: paces(each, until) for name, each in (("grown", grown), ("warm", warm))}
    if not rows["grown"]:
        raise RuntimeError(f"no step was taken while the dataset grew: {segments}")
    speed = {name: statistics.mean(row["images_per_second"] for row in found)
             for name, found in rows.items()}  # fmt: skip
    stall = {name: statistics.mean(row["data_stall_ratio"] for row in found)
             for name, found in rows.items()}  # fmt: skip
    return {
        "steps_while_growing": until,
        "snapshots": list(audit(grown).snapshots),
        "images_per_second": speed,
        "ratio": speed["grown"] / speed["warm"],
        "data_stall_ratio": stall,
        "broken": [*audit(grown).broken, *audit(warm).broken],
    }


def paces(config: Config, until: int) -> list[dict[str, float]]:
    """Return the rows of a run's speed up to a step, without the first, which warms up."""
    found = [row for row in read_metrics(config.output) if "images_per_second" in row]
    return [row for row in found[1:] if row["step"] <= until]


def at(config: Path, output: Path) -> Config:
    """Return the config with another output."""
    return load(config, (f"output={output}",))


def run(name: str, config: Path, *overrides: str) -> None:
    """Run a stage's command to its end."""
    subprocess.run(command_of(name, config, *overrides), check=True)


def write_config(folder: Path, address: str, steps: int, minutes: float) -> Path:
    """Write the config of both runs."""
    config = parse({
        "output": str(folder / "prepared"),
        "model": {"path": str(SD15)},
        "method": {"name": "lora", "rank": 8},
        "data": {
            "source": str(folder / "images"),
            "dataset": str(folder / "dataset"),
            "snapshot": "growing",
            "buckets": {"resolution": 128, "step": 32,
                        "sizes": [[128, 128], [160, 96], [96, 160]]},
            "encode": {"workers": ENCODERS, "cpus_per_worker": CPUS, "publish_minutes": minutes},
        },
        "train": {"steps": steps, "global_batch": 8, "learning_rate": 1e-3,
                  "log_every": LOG_EVERY, "held_out_every": 0, "sample_every": 0,
                  "checkpoint_every": steps},
        "sample": {"max_prompts": 1, "steps": 1},
        "log": {"tensorboard": False},
        "cluster": {"address": address},
    })  # fmt: skip
    path = folder / "config.toml"
    path.write_text(to_toml(config))
    return path


@contextmanager
def nodes() -> Iterator[str]:
    """Run a head without CPUs and two nodes, each on a core of its own; yields the address."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for number, cpus in enumerate((ENCODERS * CPUS, 1)):
            node = cluster.add_node(num_cpus=cpus, object_store_memory=150 * 2**20)
            [raylet] = node.all_processes["raylet"]
            for process in psutil.Process(raylet.process.pid).children(recursive=True):
                process.cpu_affinity([number % (os.cpu_count() or 1)])
            psutil.Process(raylet.process.pid).cpu_affinity([number % (os.cpu_count() or 1)])
        cluster.wait_for_nodes()
        yield cluster.address
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    sys.exit(main())
