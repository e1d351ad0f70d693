"""What the command that waits for training does when workers end otherwise than they should."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from jobs.render.progress import Terminal
from raytrain import checkpoint, local, storage
from raytrain.config import Config
from raytrain.config.file import parse, to_toml
from raytrain.data.pipeline import on_machine
from raytrain.data.pipeline.on_machine import OnMachine
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.log import read_metrics
from raytrain.show import Silent
from raytrain.train import launch as launching
from raytrain.train import worker
from raytrain.train.guards import out_of_memory, stop
from raytrain.train.launch import launch, work
from raytrain.train.local_worker import LocalTrainer, WorkerDied
from raytrain.train.record import phases
from tests.conftest import losses
from tests.soak._nodes import ROOT
from tests.train import group
from tests.train.test_trouble import notices


@pytest.mark.slow
def test_a_worker_that_runs_out_of_memory_between_others_begins_anew_with_less(
    run_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    # ddp, since its workers must not shrink alone; one worker is enough to see it begin anew
    train = {"steps": 3, "global_batch": 2}
    plain = run_config(name="plain", train=train)
    worker.train(plain)
    greedy = run_config(
        name="greedy",
        method={"name": "tests.train.greedy", "rank": 4},
        train={**train, "engine": "ddp", "max_failures": 0},
    )
    launch(greedy, show=Terminal())
    said = capsys.readouterr().out
    assert "Training with 1 worker from step 0, 2 images at a time" in said
    assert "with 2 images at a time. Going on with 1 at a time; a step is still 2 images." in said
    assert "Training with 1 worker from step 0, 1 images at a time" in said
    assert losses(greedy) == pytest.approx(losses(plain), abs=1e-4)


def start(config: Config, folder: Path) -> subprocess.Popen[str]:
    """Start the command on a config; it needs no Ray."""
    file = folder / "config.toml"
    file.write_text(to_toml(config))
    command = [sys.executable, "-m", "jobs.train", str(file)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_worker(command: subprocess.Popen[str], config: Config, step: int) -> int:
    """Kill the command's worker once it has done so many steps; returns how many it had done."""
    worker_of = working(command, config, step)
    worker_of.kill()
    psutil.wait_procs([worker_of])  # until the command has seen it
    return max(int(row["step"]) for row in read_metrics(config.output))


def working(command: subprocess.Popen[str], config: Config, step: int) -> psutil.Process:
    """Return the command's worker once so many steps are done."""
    while not any(row["step"] >= step for row in read_metrics(config.output)):
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.02)
    [worker_of] = [
        one
        for one in psutil.Process(command.pid).children()
        if "raytrain.train.worker" in one.cmdline()
    ]
    return worker_of


def test_one_worker_on_this_machine_needs_no_ray(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    train = {"steps": 60, "checkpoint_every": 5, "held_out_every": 0}
    whole = run_config(name="whole", train=train)
    group.train(whole, 1, tmp_path)
    config = run_config(name="killed", train=train)
    command = start(config, tmp_path)
    done = kill_worker(command, config, 7)
    second = working(command, config, done + 2)
    command.kill()  # the whole command: its worker ends with it
    command.wait()
    psutil.wait_procs([second], timeout=500)
    assert not second.is_running()
    again = start(config, tmp_path)
    said, _ = again.communicate()
    assert again.returncode == 0, said
    assert losses(config) == losses(whole)
    assert (
        "The worker ended with SIGKILL; it starts anew from the last checkpoint (1 of 3)."
        in notices(config)
    )


def test_the_process_that_encodes_also_trains_and_computes_the_same(
    run_config: Callable[..., Config],
    world: Callable[[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[str] = []

    class Process(local.Process):
        def __init__(self, *modules: str, silent: bool = False) -> None:
            started.append(modules[0])
            super().__init__(*modules, silent=silent)

    monkeypatch.setattr(local, "Process", Process)
    data = {**world("sd15")["data"], "dataset": str(tmp_path / "dataset")}
    config = run_config(data=data)
    with local.Machine() as machine:
        prepare(config, executor=OnMachine(machine))
        launch(config, executor=OnMachine(machine))
    assert started == ["raytrain.data.pipeline.scan", on_machine.ENCODER]
    other = run_config(name="other", data=data)
    group.train(other, 1, tmp_path)
    assert losses(config) == losses(other)


def test_the_same_worker_goes_on_from_the_checkpoint_before_the_last(
    run_config: Callable[..., Config],
) -> None:
    config = run_config(train={"keep_checkpoints": 2})
    whole = run_config(name="whole", train={"keep_checkpoints": 2})
    longer = run_config(train={"keep_checkpoints": 2, "score_every": 5},
                        evaluate={"scorers": ["held_out_loss"], "timesteps": 2})  # fmt: skip
    work(config, longer, rank=0, world_size=1, report=None)
    work(whole, rank=0, world_size=1, report=None)
    assert losses(config) == losses(whole)
    did = [
        {each.name: each.count for each in phases.read(config.output, file)[1]}
        for file in (phases.BEFORE, phases.FILE)
    ]
    assert [each["step"] for each in did] == [6, 2]
    assert ["score" in each for each in did] == [False, True]
    latest = [checkpoint.load(checkpoint.listing(each.output)[-1]) for each in (config, whole)]
    assert latest[0].step == latest[1].step == 6
    for name, weight in latest[1].weights.items():
        assert torch.equal(latest[0].weights[name], weight)


def test_a_lone_worker_that_dies_too_often(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = run_config(train={"steps": 2000, "max_failures": 0, "checkpoint_every": 5})
    command = start(config, tmp_path)
    kill_worker(command, config, 5)
    said, _ = command.communicate()
    assert command.returncode == 1
    assert "The worker ended with SIGKILL, after 0 others" in said


def test_a_worker_the_kernel_ends_for_memory_begins_anew_with_less(
    run_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = tmp_path / "vmstat"
    counts.write_text("nr_free_pages 7\noom_kill 3\n")
    monkeypatch.setattr(out_of_memory, "KILLS", counts)

    class Killed:
        def call(self, *_: object) -> None:
            counts.write_text(f"oom_kill {out_of_memory.kernel_kills() + 1}\n")
            raise local.Died("SIGKILL")

    machine = local.Machine()
    monkeypatch.setattr(machine, "take", lambda *_: Killed())
    config = run_config(train={"max_failures": 2})
    with pytest.raises(
        WorkerDied, match=r"with 1 images at a time \(there is no smaller.*gradient_checkpointing"
    ):
        LocalTrainer([config], machine).fit()
    told = "The worker ended with SIGKILL by the kernel, as memory ran out with"
    assert (
        f"{told} 4 images at a time (from now on 2; a step is still 4 images); it starts anew"
        in notices(config)
    )
    assert (
        f"{told} 2 images at a time (from now on 1; a step is still 4 images); it starts anew"
        in notices(config)
    )
    assert out_of_memory.micro_batch(config, world_size=1) == 1
    counts.unlink()  # another system
    assert out_of_memory.kernel_kills() == 0


def test_going_back_to_another_checkpoint(run_config: Callable[..., Config]) -> None:
    config = run_config(train={"keep_checkpoints": 5, "held_out_every": 2})
    worker.train(config)
    whole = losses(config)
    second = storage.join(config.output, "checkpoints", "step-00000002")
    assert "step 2; 2 later checkpoints" in (checkpoint.go_back(config.output, second) or "")
    assert checkpoint.listing(config.output) == [second]
    assert not Path(config.output, "train.json").exists()
    assert checkpoint.go_back(config.output, second) is None
    worker.train(config)
    assert losses(config) == whole
    other = run_config(name="other", train={"keep_checkpoints": 5, "held_out_every": 2})
    checkpoint.go_back(other.output, second)
    worker.train(other)
    assert losses(other) == whole[2:]
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoint.go_back(config.output, "nowhere")


@pytest.mark.parametrize(
    ("best_by", "expected"), [({"held_out_loss": -1.0}, min), ({"held_out_loss": 1.0}, max)]
)
def test_the_best_is_by_the_metrics_asked_for(
    run_config: Callable[..., Config], best_by: dict[str, float], expected: Callable[..., Any]
) -> None:
    train = {"keep_checkpoints": 1, "held_out_every": 2, "learning_rate": 0.3, "best_by": best_by}
    config = run_config(train=train)
    worker.train(config)
    held_out = {
        row["step"]: row["held_out_loss"]
        for row in read_metrics(config.output)
        if row["step"] and "held_out_loss" in row
    }
    best = expected(held_out, key=held_out.__getitem__)
    assert checkpoint.read_state(checkpoint.find(config.output, "best") or "")["step"] == best


def test_sigterm_asks_for_a_checkpoint_as_ctrl_c_does(tmp_path: Path) -> None:
    config, warned = parse({"output": str(tmp_path / "run"), "model": {"path": "m"}}), []
    asked = Path(config.output, stop.NAME)

    class Trainer:
        def fit(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            while not asked.exists():  # the test's own time-out ends it
                time.sleep(0.01)

    class Shown(Silent):
        def warn(self, text: str) -> None:
            warned.append(text)

    def unhandled(*_: object) -> None:
        raise AssertionError("SIGTERM was not taken")

    before = signal.signal(signal.SIGTERM, unhandled)
    try:
        with pytest.raises(KeyboardInterrupt):
            launching._wait(config, Trainer(), Shown())
        assert signal.getsignal(signal.SIGTERM) is unhandled
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked.exists()
    assert [text.split(",")[0] for text in warned] == ["Stopping after this step"]
