"""Nothing of a cluster stays taken: not after stopped trials, cancelled jobs or killed drivers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.head import Head, head
from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import to_toml
from tests.bench.first_step import command_of
from tests.conftest import losses
from tests.soak._nodes import ROOT
from tests.tuning import fake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]
TIMES = 5
FREE = """
import sys
import time
import ray

ray.init(sys.argv[1], logging_level="ERROR")
while True:
    total, free = ray.cluster_resources(), ray.available_resources()
    groups = {group["state"] for group in ray.util.placement_group_table().values()}
    if free.get("CPU") == total["CPU"] and groups <= {"REMOVED"}:
        break
    print(free, groups, file=sys.stderr)
    time.sleep(1)
"""
"""Ends when every CPU is free, and no placement group is left."""


@pytest.fixture(scope="module")
def running() -> Iterator[Head]:
    with head(num_cpus=3, object_store_mb=150) as found:
        yield found


def check_free(running: Head) -> None:
    """Wait until nothing is taken; what is, is in what the test prints when its time is up."""
    subprocess.run([sys.executable, "-c", FREE, running.address], cwd=ROOT, check=True)


def write(config: Config, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "config.toml"
    path.write_text(to_toml(config))
    return path


def endless(run_config: Callable[..., Config], name: str, address: str) -> Config:
    """A run of two workers that does not end by itself."""
    train = {"steps": 100_000, "workers": 2, "checkpoint_every": 100_000}
    return run_config(name=name, train=train, cluster={"address": address})


def wait_for_a_step(config: Config, alive: Callable[[], bool]) -> None:
    while not losses(config):
        assert alive()
        time.sleep(0.2)


def test_after_stopped_trials(running: Head, tmp_path: Path) -> None:
    config = fake.make_config(tmp_path, trials=36, concurrent=3, reduction=4)
    path = write(config, tmp_path / "machine")
    command = [sys.executable, "-m", "tests.tuning.fake", str(path), running.address, "0"]
    subprocess.run(command, cwd=ROOT, check=True)
    board = storage.read_json(storage.join(config.output, "tune", "leaderboard.json"))
    assert sum(row["state"] == "stopped" for row in board) >= 20
    check_free(running)


def test_after_cancelled_jobs(
    running: Head, run_config: Callable[..., Config], tmp_path: Path
) -> None:
    raytrain = str(Path(sys.executable).parent / "raytrain")
    environment = os.environ | {"RAY_ADDRESS": running.dashboard_url}
    for number in range(TIMES):
        config = endless(run_config, f"cancelled-{number}", "auto")
        path, name = write(config, tmp_path / "client"), f"cancelled-{number}"
        submit = [raytrain, "submit", "train", path.name, "--detach", "--id", name]
        subprocess.run(submit, cwd=path.parent, check=True, env=environment)
        wait_for_a_step(config, lambda: True)
        subprocess.run([raytrain, "job", "stop", name], check=True, env=environment)
        check_free(running)


def test_after_killed_drivers(
    running: Head, run_config: Callable[..., Config], tmp_path: Path
) -> None:
    for number in range(TIMES):
        config = endless(run_config, f"killed-{number}", running.address)
        path = write(config, tmp_path / f"driver-{number}")
        driver = subprocess.Popen(command_of("train", path), cwd=ROOT)
        wait_for_a_step(config, lambda driver=driver: driver.poll() is None)  # type: ignore[misc]
        driver.kill()
        driver.wait()
        check_free(running)
