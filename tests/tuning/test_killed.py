"""Drivers killed -9 in the middle of a sweep, whose next driver knows nothing of their machine: no
trial is lost, none is run twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import ray as rays
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.errors import UserError
from tests.tuning import fake
from tuning import database, home
from tuning.sweep import sweep

ROOT = Path(__file__).parents[2]
SPACE = {"train.learning_rate": {"log": [1e-6, 1e-1]}, "method.rank": {"choice": [2, 4, 8]}}
"""In which no trial diverges."""
Trials = Callable[[], list[FrozenTrial]]


def start(config: Config, machine: Path, stale: float) -> subprocess.Popen[str]:
    """Start a driver with a home, a temporary and a working folder of its own, on the test's
    Ray."""
    machine.mkdir()
    (machine / "config.toml").write_text(to_toml(config))
    address = rays.get_runtime_context().gcs_address
    own = {"HOME": str(machine), "TMPDIR": str(machine), "PYTHONPATH": ":".join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tuning.fake", "config.toml", address, str(stale)],
        cwd=machine, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def on_storage(config: Config, tmp_path: Path) -> Trials:
    """A reader of the study that an object store has."""
    kept, copy = storage.join(home.folder(config), "study.db"), tmp_path / "copy.db"

    def read() -> list[FrozenTrial]:
        if not storage.exists(kept):
            return []
        copy.write_bytes(storage.read_bytes(kept))
        opened = RDBStorage(
            f"sqlite:///{copy}", skip_table_creation=True, skip_compatibility_check=True
        )
        try:
            return optuna.load_study(study_name=home.NAME, storage=opened).trials
        finally:
            opened.engine.dispose()

    return read


def in_database(config: Config) -> Trials:
    """A reader of the study that a database has."""
    record, opened = (
        storage.join(home.folder(config), "study.json"),
        database.connect(config.tune.storage),
    )

    def read() -> list[FrozenTrial]:
        if not storage.exists(record):
            return []
        name = storage.read_json(record)["study"]
        return optuna.load_study(study_name=name, storage=opened).trials

    return read


def kill_midway(driver: subprocess.Popen[str], read: Trials, wanted: int) -> list[FrozenTrial]:
    """Kill a driver -9 once so many trials are complete and another has been evaluated twice;
    return the trials that were complete."""
    while True:  # the test's own time-out ends it
        trials = read()
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if len(complete) >= wanted and any(len(t.intermediate_values) > 1 for t in running):
            break
        assert driver.poll() is None, "the sweep ended before it could be killed"
        time.sleep(0.5)  # a store that serves this question serves no driver
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    return complete


def check_whole(config: Config, trials: list[FrozenTrial], kept: list[FrozenTrial]) -> None:
    """Check that every trial came to one end, and that what killed drivers had is kept."""
    ended = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(ended) == config.tune.trials
    assert not any(trial.state == TrialState.RUNNING for trial in trials)
    same = defaultdict(list)
    for trial in trials:
        same[tuple(trial.params.values())].append(trial.state)
    for states in same.values():  # what a kill interrupted was run again, once to its end
        assert states.count(TrialState.COMPLETE) == 1
        assert set(states) <= {TrialState.COMPLETE, TrialState.FAIL}
    values = {trial.number: (trial.value, trial.params) for trial in ended}
    assert {trial.number: (trial.value, trial.params) for trial in kept}.items() <= values.items()
    assert sum("default" in trial.user_attrs for trial in ended) == 1
    calls = fake.calls(config)
    assert {number: len(calls[number]) for number in values} == dict.fromkeys(values, 4)
    board = storage.read_json(storage.join(home.folder(config), "leaderboard.json"))
    assert {row["number"] for row in board} == set(values)
    assert storage.exists(storage.join(home.folder(config), "winner.toml"))


def killed_and_continued(config: Config, read: Trials, folder: Path, kills: int) -> None:
    kept: list[FrozenTrial] = []
    for number in range(kills):
        fake.hold(config, number + 1)
        driver = start(config, folder / f"machine{number}", 0)
        kept += kill_midway(driver, read, number + 1)
    with pytest.raises(UserError, match="the same command goes on in"):
        sweep(config, fake.train, stale=3600)
    fake.hold(config, 1000)
    last = start(config, folder / "last", 0)
    said, _ = last.communicate()
    assert last.returncode == 0
    assert said.splitlines()[-1] == "loaded []", "a driver needs no torch"
    assert "Watch it with: optuna-dashboard " in said
    check_whole(config, read(), kept)


@pytest.mark.usefixtures("ray")
def test_a_sweep_on_an_object_store_outlives_its_driver(bucket: str, tmp_path: Path) -> None:
    config = fake.make_config(
        storage.join(bucket, "killed"), stopper="none", space=SPACE, trials=5
    )
    killed_and_continued(config, on_storage(config, tmp_path), tmp_path, kills=1)


@pytest.mark.usefixtures("ray")
def test_a_driver_whose_sweep_was_taken_over_ends_and_leaves_it_alone(bucket: str) -> None:
    config = fake.make_config(storage.join(bucket, "usurped"), concurrent=1)
    with pytest.raises(UserError, match="process 7 on elsewhere took the sweep"):
        sweep(config, fake.usurped)
    note = storage.read_json(storage.join(home.folder(config), "lease.json"))
    assert note["owner"] == "other"
    until = time.monotonic() + 120
    while rays.available_resources().get("CPU") != 2:  # its trial has ended too
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("ray")
def test_a_sweep_on_an_object_store_outlives_five_drivers(bucket: str, tmp_path: Path) -> None:
    config = fake.make_config(storage.join(bucket, "five"), stopper="none", space=SPACE, trials=6)
    killed_and_continued(config, on_storage(config, tmp_path), tmp_path, kills=5)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.postgres
@pytest.mark.usefixtures("ray")
def test_a_sweep_in_a_database_outlives_five_drivers(postgres: str, tmp_path: Path) -> None:
    config = fake.make_config(tmp_path, stopper="none", space=SPACE, storage=postgres)
    killed_and_continued(config, in_database(config), tmp_path, kills=5)


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_two_sweeps_run_side_by_side_in_one_cluster_and_one_database(tmp_path: Path) -> None:
    address = f"journal://{tmp_path}/studies.log"
    sweeps = [
        fake.make_config(
            tmp_path / name,
            stopper="none",
            space=SPACE,
            storage=address,
            trials=4,
            concurrent=1,
            seed=seed,
        )
        for seed, name in enumerate("ab")
    ]
    drivers = [start(config, tmp_path / str(n), 60) for n, config in enumerate(sweeps)]
    assert [driver.wait() for driver in drivers] == [0, 0]
    for config in sweeps:
        check_whole(config, in_database(config)(), [])
