"""Preparation on a real local Ray: worker processes, pools, a full disk and workers that die."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline import flow
from raytrain.data.pipeline.on_ray import OnRay
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from tests.data.conftest import draw
from tests.data.test_prepare import counts, live

pytestmark = pytest.mark.usefixtures("ray")


def test_a_pool_of_workers_makes_the_same_dataset_and_goes_on_from_it(
    source: Path, make_config: Callable[..., Config]
) -> None:
    (source / "05.png").write_bytes((source / "05.png").read_bytes()[:-30])
    config = make_config(encode={"workers": 2, "cpus_per_worker": 0.5})
    report = prepare(config)
    assert counts(report) == (11, 12, 0)
    assert [item.path for item in report.rejected] == ["05.png"]
    assert counts(prepare(config)) == (0, 0, 23)
    assert len(live(config)) == 11
    assert (
        sum(Dataset(config.dataset).counts().values())
        + sum(Dataset(config.dataset).counts("held_out").values())
        == 11
    )


def test_a_worker_no_node_can_hold_is_refused(
    source: Path, make_config: Callable[..., Config]
) -> None:
    with pytest.raises(UserError, match=r"gpus_per_worker.*0 GPUs"):
        prepare(make_config(encode={"gpus_per_worker": 1}))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder]).returncode
    ):
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.usefixtures("here")
def test_a_disk_that_is_really_full(
    source: Path, make_config: Callable[..., Config], small_disk: Path
) -> None:
    config = make_config(dataset=str(small_disk / "dataset"), captions={"trigger": "a"})
    for path in sorted(source.glob("*.png"))[3:]:
        path.rename(path.with_suffix(".later"))
    prepare(config)
    before = list(Dataset(config.dataset).details("train"))
    (small_disk / "full").write_bytes(bytes(shutil.disk_usage(small_disk).free - 2**16))
    for path in sorted(source.glob("*.later")):
        path.rename(path.with_suffix(".png"))
    for number in range(20, 60):
        draw(source / f"{number}.png", number)
    with pytest.raises(UserError, match="No space left on device"):
        prepare(config)
    assert list(Dataset(config.dataset).details("train")) == before


class Mortal:
    """Dies once, with its process, in the middle of the work."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        if not os.path.exists(self.mark):
            Path(self.mark).touch()
            os._exit(1)
        return job


def test_a_worker_that_dies_is_replaced_and_its_work_done_again(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    jobs = [{"number": number} for number in range(6)]
    rows = flow.map_actors(
        OnRay(), jobs, Mortal, {"mark": str(tmp_path / "mark")}, make_config().data.encode
    )
    assert sorted(row["number"] for row in rows) == list(range(6))


class Held:
    """Says how much memory it is given; the sixth job kills it once, after the first report."""

    def __init__(self, folder: str) -> None:
        self.reported, self.mortal = Path(folder, "reported"), Mortal(f"{folder}/died")

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        import ray

        if job["number"] == 5:
            while not self.reported.exists():
                time.sleep(0.05)
            self.mortal(job)
        return {"memory": ray.get_runtime_context().get_assigned_resources().get("memory", 0)}


def test_workers_are_given_the_memory_that_lost_ones_were_seen_to_hold(
    tmp_path: Path, make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnRay, "retries", 0)
    jobs = [{"number": number} for number in range(8)]
    settings = {"folder": str(tmp_path)}
    found = []
    for report in flow.map_actors(OnRay(), jobs, Held, settings, make_config().data.encode):
        found.append(report)
        (tmp_path / "reported").touch()
    before = [report for report in found if not report["memory"]]
    after = [report["memory"] / 2**20 for report in found if report["memory"]]
    assert len(before) + len(after) == 8
    assert before
    held = max(report["peak"][0] for report in before)
    assert after == pytest.approx([1.2 * held] * len(after), abs=1)
    assert len(after) >= 3


def deadly(job: dict[str, Any]) -> dict[str, Any]:
    """Kill the process that runs it."""
    os._exit(1)


def test_a_job_that_kills_every_worker_ends_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnRay, "retries", 0)
    with pytest.raises(UserError, match="none of the last 1 jobs ended"):
        list(flow.map_tasks(OnRay(), [{"number": 1}], deadly))


class Joined:
    """Says which process it is, once there are two."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        (self.folder / str(os.getpid())).touch()

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        while len(list(self.folder.iterdir())) < 2:
            time.sleep(0.05)
        return {"process": os.getpid()}


@pytest.mark.slow
def test_a_pool_grows_from_its_minimum_to_its_maximum_of_workers(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    (tmp_path / "joined").mkdir()
    settings = {"folder": str(tmp_path / "joined")}
    encode = make_config(
        encode={"workers": 1, "max_workers": 2, "cpus_per_worker": 0.5}
    ).data.encode
    reports = list(
        flow.map_actors(
            OnRay(), [{"number": number} for number in range(40)], Joined, settings, encode
        )
    )
    assert len(reports) == 40
    assert len({report["process"] for report in reports}) == 2
