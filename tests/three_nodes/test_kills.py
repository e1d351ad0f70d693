"""A node, or the driver, is killed with signal 9 in the middle of each stage on three nodes that
share no disk; the same command again ends as an undisturbed one does."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from raytrain import storage
from raytrain.log import read_metrics
from tests.three_nodes.conftest import World
from tests.three_nodes.nodes import Node
from tests.three_nodes.test_three_nodes import tune

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="namespaces of a node's own need root and unshare",
    ),
]


@pytest.fixture(scope="module")
def calm(world: World) -> str:
    """A run that nothing disturbs: its dataset is `dataset`, its output `calm`."""
    config = world.config("calm")
    for stage in ("prepare", "train", "sample", "evaluate"):
        world.submit(stage, config)
    return config


@pytest.mark.parametrize("victim", ["node", "driver"])
@pytest.mark.parametrize("stage", ["prepare", "train", "sample", "evaluate", "tune"])
def test_the_same_command_ends_right(world: World, calm: str, stage: str, victim: str) -> None:
    name = f"{stage}-{victim}"
    own = {"dataset": world.uri(f"{name}-data")} if stage == "prepare" else {}
    config = world.config(name, data=own, tune=tune(world))
    if stage in ("sample", "evaluate"):
        world.submit("train", config)
    job = world.start(stage, config)
    node = _wait(job, lambda: _in_the_middle(world, stage, name))
    if victim == "node":
        node.kill()
    else:
        driver = world.driver(stage)
        assert driver is not None
        driver.kill()
    said, _ = job.communicate()
    assert victim == "node" or job.returncode, said[-3000:]
    world.submit(stage, config)
    assert _result(world, stage, name) == _result(world, stage, "calm")


def _in_the_middle(world: World, stage: str, name: str) -> Node | None:
    """Return a node that works for a stage, once the stage has done a part of it."""
    marks = {"prepare": f"{name}-data/annotations/", "train": f"{name}/checkpoints/step-00000002",
             "tune": f"{name}/tune/trials/"}  # fmt: skip
    if stage in marks:
        return world.nodes.workers[0] if world.objects(marks[stage]) else None
    for node in world.nodes.workers:
        for process in psutil.Process(node.process.pid).children(recursive=True):
            try:
                busy = "_computed" in " ".join(process.cmdline())
            except psutil.Error:
                continue
            if busy:
                return node
    return None


def _wait(job: Any, found: Callable[[], Node | None]) -> Node:
    """Wait for the middle of a job; it may not end before."""
    while job.poll() is None:
        if node := found():
            return node
        time.sleep(0.1)
    raise AssertionError(f"the job ended before: {job.communicate()[0][-3000:]}")


def _result(world: World, stage: str, name: str) -> Any:
    """Return what a stage made, to compare."""
    output = world.uri(name)
    if stage == "prepare":
        dataset = "dataset" if name == "calm" else f"{name}-data"
        made = storage.read_json(world.uri(dataset, "manifest.json"))
        return made["fingerprint"], made["buckets"]
    if stage == "train":
        return [(row["step"], row["loss"]) for row in read_metrics(output) if "loss" in row]
    if stage == "sample":
        return storage.read_bytes(storage.join(output, "images", "grid.png"))
    if stage == "evaluate":
        return storage.read_json(storage.join(output, "evaluation", "report.json"))["samples"]
    if name == "calm":
        return list(range(8))
    rows = storage.read_json(storage.join(output, "tune", "leaderboard.json"))
    assert {row["state"] for row in rows} <= {"completed", "stopped"}
    return sorted(row["number"] for row in rows)
