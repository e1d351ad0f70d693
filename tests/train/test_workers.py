"""Real Ray Train runs: one worker and two give the same losses,
and killed workers lose nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.log import read_metrics
from raytrain.train import worker
from raytrain.train.launch import launch
from tests.conftest import losses
from tests.train import group

STEPS = 10


def train_by_ray(tree: dict[str, Any]) -> None:
    import ray.train

    context = ray.train.get_context()
    worker.train(parse(tree), rank=context.get_world_rank(), world_size=context.get_world_size())


def test_one_and_two_workers_agree(ray: None, run_config: Callable[..., Config]) -> None:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raytrain.train.process_group import ProcessGroup

    # 30 images in three buckets and a batch of 4: batches cross epochs, and the last ones of the
    # run come short
    train = {
        "steps": None,
        "epochs": 2,
        "global_batch": 4,
        "learning_rate": 3e-3,
        "checkpoint_every": 1000,
    }
    one = run_config(name="one", train={**train, "engine": "plain"})
    worker.train(one)
    expected = losses(one)
    assert len(expected) >= STEPS
    two = run_config(
        name="two", train={**train, "engine": "ddp", "workers": 2, "cpus_per_worker": 0.5}
    )
    DataParallelTrainer(
        train_by_ray,
        train_loop_config=two.values(),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        backend_config=ProcessGroup("gloo", timeout_s=600),
        run_config=RunConfig(name="two", storage_path=f"{one.output}/ray"),
    ).fit()
    assert losses(two) == pytest.approx(expected, abs=1e-4)
    held_out = [
        [row["held_out_loss"] for row in read_metrics(config.output) if "held_out_loss" in row][-1]
        for config in (one, two)
    ]
    assert held_out[1] == pytest.approx(held_out[0], abs=1e-4)


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_one_too_many_ends_the_command(
    ray: None, run_config: Callable[..., Config], tmp_path: Path
) -> None:
    train = {"steps": 60, "learning_rate": 3e-3, "checkpoint_every": 5, "max_failures": 1}
    whole = run_config(name="whole", train=train)
    group.train(
        whole, 1, tmp_path
    )  # in a fresh process, too: DeepSpeed, once loaded, changes last bits of a process
    config = run_config(name="killed", train=train)
    killed: list[int] = []

    def kill() -> None:
        step = 8
        for _ in range(2):
            while not any(row["step"] >= step for row in read_metrics(config.output)):
                time.sleep(0.02)
            victim = worker_process()
            victim.kill()
            killed.append(step)
            psutil.wait_procs([victim])
            step = 2 + max(
                int(row["step"]) for row in read_metrics(config.output)
            )  # the next worker's own

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(Exception, match="worker"):
        launch(config)
    assert len(killed) == 2
    launch(config)
    assert losses(config) == losses(whole)  # bit for bit: the world is of the same size


def worker_process() -> psutil.Process:
    """Return the process of the one Ray Train worker of this test's Ray."""
    found = [
        process
        for process in psutil.Process().children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]
