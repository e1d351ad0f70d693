"""Preparation without Ray: the same dataset from processes of this machine,
and what becomes of those that die."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.data.pipeline import flow, on_machine
from raytrain.data.pipeline.on_machine import OnMachine
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.local import Machine
from tests.data.contents import contents
from tests.data.test_prepare import counts
from tests.data.test_prepare_on_ray import Joined, Mortal, deadly


@pytest.fixture
def machine() -> Iterator[OnMachine]:
    with Machine() as processes:
        yield OnMachine(processes)


def test_the_dataset_is_the_same_as_with_workers_in_this_process(
    machine: OnMachine,
    source: Path,
    make_config: Callable[..., Config],
    request: pytest.FixtureRequest,
) -> None:
    (source / "05.png").write_bytes((source / "05.png").read_bytes()[:-30])
    config = make_config()
    assert machine.machine is not None
    on_machine.reserve(config, machine.machine)
    report = prepare(config, executor=machine)
    assert counts(report) == (11, 12, 0)
    assert [item.path for item in report.rejected] == ["05.png"]
    assert counts(prepare(config, executor=machine)) == (0, 0, 23)
    request.getfixturevalue("here")
    again = make_config(dataset=f"{config.output}-here")
    prepare(again)
    assert contents(config) == contents(again)


def test_a_worker_that_dies_is_replaced_and_its_work_done_again(
    machine: OnMachine, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    jobs = [{"number": number} for number in range(6)]
    rows = flow.map_actors(
        machine, jobs, Mortal, {"mark": str(tmp_path / "mark")}, make_config().data.encode
    )
    assert [row["number"] for row in rows] == list(range(6))


def test_a_job_that_kills_every_worker_ends_in_a_message(machine: OnMachine) -> None:
    with pytest.raises(UserError, match=r"exit code 1 occurred repeatedly, .* tried 2 times"):
        list(flow.map_tasks(machine, [{"number": 1}, {"number": 2}], deadly))


def wrong(job: dict[str, Any]) -> dict[str, Any]:
    """Find a mistake of the user's in the second job."""
    if job["number"] == 1:
        raise UserError("An image must be an image.")
    return job


def test_a_mistake_that_a_worker_meets_is_told(machine: OnMachine) -> None:
    with pytest.raises(UserError, match="must be an image"):
        list(flow.map_tasks(machine, [{"number": number} for number in range(4)], wrong))


def test_several_workers_share_the_jobs(
    machine: OnMachine, tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    encode = make_config(encode={"workers": 2}).data.encode
    reports = list(
        flow.map_actors(
            machine,
            [{"number": number} for number in range(6)],
            Joined,
            {"folder": str(tmp_path)},
            encode,
        )
    )
    assert len(reports) == 6
    assert len({report["process"] for report in reports} - {os.getpid()}) == 2


def test_an_encoder_on_a_gpu_that_is_not_there(
    machine: OnMachine,
    source: Path,
    make_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(UserError, match=r"data\.encode\.gpus_per_worker = 1.*finds no GPU"):
        prepare(make_config(encode={"gpus_per_worker": 1}), executor=machine)
