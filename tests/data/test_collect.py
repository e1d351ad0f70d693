"""Cleaning up a dataset: what snapshots need stays readable at every moment,
killed, or while preparations run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raytrain import storage
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.data.store import leaving, snapshot, tables
from raytrain.data.tools import collect as collecting
from raytrain.data.tools.collect import collect
from raytrain.errors import UserError
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test's images and dataset are kept for the others."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def dataset(source: Path, make_config: Make, kept: Path) -> str:
    """Three snapshots: all images at 64 pixels, all at 32, and those without the first."""
    config = make_config(buckets={"resolution": 32, "step": 16})
    (source / "00.png").rename(source.parent / "first.png")
    if not (kept / "dataset").exists():
        (source.parent / "first.png").rename(source / "00.png")
        prepare(make_config())
        prepare(config)
        (source / "00.png").rename(source.parent / "first.png")
        prepare(config)
        shutil.copytree(config.dataset, kept / "dataset")
    else:
        shutil.copytree(kept / "dataset", config.dataset)
    return config.dataset


def files(dataset: str) -> dict[str, int]:
    return {file.path: file.bytes for file in storage.files(dataset)}


def read_everything(dataset: str, number: int) -> int:
    """Read every array of a snapshot; return the number of rows."""
    import numpy as np

    opened = Dataset(dataset, str(number), partial=True)
    rows = 0
    for split in ("train", "held_out"):
        for bucket, entries in opened.counts(split).items():
            found = opened.rows(bucket, np.arange(entries), split)
            assert np.isfinite(found.columns["latents"]).all()
            rows += entries
    opened.empties(opened.manifest.columns)
    assert len(list(opened.details("train"))) <= rows
    return rows


def numbers(dataset: str) -> list[int]:
    return snapshot.snapshot_numbers(dataset)


def test_by_default_nothing_that_a_snapshot_needs_goes(dataset: str) -> None:
    before = files(dataset)
    found = collect(dataset, older_than=0)
    assert (found.files, found.bytes, found.snapshots) == ({}, 0, ())
    assert files(dataset) == before


def test_old_snapshots_are_dropped_with_all_that_only_they_need(dataset: str) -> None:
    before = files(dataset)
    assert collect(dataset, keep=1, dry_run=True, older_than=0).files
    assert files(dataset) == before, "a dry run deletes nothing"
    would = collect(dataset, keep=1, dry_run=True, older_than=0)
    found = collect(dataset, keep=1, older_than=0)
    after = files(dataset)
    assert found.model_copy(update={"dry_run": True}) == would
    assert found.snapshots == (1, 2)
    assert found.bytes == sum(before.values()) - sum(after.values()) - sum(
        size
        for name, size in before.items()
        if name.startswith("snapshots/") and name not in after
    )
    assert numbers(dataset) == [3]
    assert read_everything(dataset, 3) == 11
    needed = leaving.named(snapshot.read_snapshot(dataset, 3))
    assert {
        name for name in after if name.split("/")[0] in ("latents", "text", "rows", "rejected")
    } == needed
    assert {
        name for name in before if name.startswith(("annotations/", "catalog/"))
    } <= after.keys()


def test_the_snapshot_that_the_dataset_points_at_stays(dataset: str) -> None:
    shutil.copy(snapshot.snapshot_path(dataset, 1), storage.join(dataset, "manifest.json"))
    assert collect(dataset, keep=1, older_than=0).snapshots == (2,)
    assert [read_everything(dataset, number) for number in numbers(dataset)] == [12, 11]


def test_young_files_stay(dataset: str) -> None:
    for number in (1, 2):
        storage.remove(snapshot.snapshot_path(dataset, number))
    before = files(dataset)
    found = collect(dataset)
    assert found.files == {}
    assert found.young > 0
    assert files(dataset) == before
    a_day_ago = time.time() - 25 * 3600
    old = sorted(Path(dataset, "latents").rglob("*.parquet"))
    for file in old:
        os.utime(file, (a_day_ago, a_day_ago))
    assert set(collect(dataset).files) == {"latents"}
    assert read_everything(dataset, 3) == 11


def test_what_a_living_preparation_wrote_stays_however_old(dataset: str) -> None:
    for number in (1, 2):
        storage.remove(snapshot.snapshot_path(dataset, number))
    days = time.time() - 100 * 3600
    for file in Path(dataset).rglob("*.parquet"):
        os.utime(file, (days, days))
    work = Path(dataset, "work", f"{int(days) - 10}-abc")
    work.mkdir(parents=True)
    (work / "alive").touch()
    assert collect(dataset).files == {}
    os.utime(work / "alive", (days, days))
    found = collect(dataset).files
    assert found["work"] == 1
    assert found["latents"] > 0
    assert not work.exists()


def test_what_killed_writers_left_goes_and_what_is_not_ours_stays(dataset: str) -> None:
    left = [
        "latents/bucket=64x64/x.parquet.tmp-0123abcd",
        "manifest.json.tmp-0123abcd",
        "rejected/0a.new",
        "snapshots/000009.json.new-0123abcd",
        "snapshots/000009.json.new-0123abcd.tmp-0123abcd",
    ]
    foreign = ["notes.md", "latents/README", "images/new.png", "preview.html"]
    for name in (*left, *foreign):
        Path(dataset, name).parent.mkdir(exist_ok=True, parents=True)
        Path(dataset, name).write_text("x")
    assert collect(dataset, older_than=0).files == {"unfinished files": len(left)}
    assert set(foreign) <= files(dataset).keys()
    assert not set(left) & files(dataset).keys()


def test_nothing_is_deleted_where_a_snapshot_cannot_be_read(dataset: str) -> None:
    Path(snapshot.snapshot_path(dataset, 3)).write_text('{"version": 3, "number": 3')
    before = files(dataset)
    with pytest.raises(UserError, match="cannot be read"):
        collect(dataset, keep=1, older_than=0)
    assert files(dataset) == before


KILLED = """
import os, signal, sys
from raytrain import storage
from raytrain.data.tools import collect
count = int(sys.argv[2])
def remove(uri, remove=storage.remove):
    global count
    count -= 1
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    remove(uri)
storage.remove = remove
collect.collect(sys.argv[1], keep=1, older_than=0)
"""


def test_killed_anywhere_every_kept_snapshot_is_readable(
    dataset: str, tmp_path: Path, make_config: Make
) -> None:
    count, killed = 0, True
    while killed:
        copy = tmp_path / f"copy-{count}"
        shutil.copytree(dataset, copy)
        done = subprocess.run([sys.executable, "-c", KILLED, str(copy), str(count)], check=False)
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0
        for number in numbers(str(copy)):
            assert read_everything(str(copy), number) == (11 if number == 3 else 12)
        collect(str(copy), keep=1, older_than=0)
        assert read_everything(str(copy), 3) == 11
        count += 6
    assert count > 6, "deleting was interrupted at several places"


@pytest.mark.parametrize("moment", ["_publish", "_encode", "_plan_rows"])
def test_a_preparation_at_the_same_time_ends_whole(
    dataset: str, source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    from raytrain.data.prepare import Preparation

    for number in (1, 2):
        storage.remove(snapshot.snapshot_path(dataset, number))
    real, collected = getattr(Preparation, moment), []

    def meanwhile(self: Any, *arguments: Any, **options: Any) -> Any:
        if not collected:
            ages = time.time() - 10
            for file in Path(dataset, "work").rglob("*"):
                os.utime(file, (ages, ages))
            collected.append(collect_but_work(dataset))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Preparation, moment, meanwhile)
    report = prepare(make_config())
    assert collected[0] > 0, "something was deleted meanwhile"
    assert read_everything(dataset, report.snapshot) == 11
    assert read_everything(dataset, 3) == 11


def collect_but_work(dataset: str) -> int:
    """Clean up as if the preparation had not begun yet when it was decided what may go."""
    old = [
        file
        for file in collecting._waste(dataset, collecting._named(dataset), 0.0)
        if not file.path.startswith("work/")
    ]
    return len(collecting._delete(dataset, [file for file in old if file.modified < float("inf")]))


def test_a_snapshot_written_while_files_are_chosen_keeps_them(
    dataset: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean-up has chosen what to delete; a preparation then names it;
    the clean-up sees that in time."""
    for number in (1, 2):
        storage.remove(snapshot.snapshot_path(dataset, number))
    real, made = collecting._delete, []

    def after_a_preparation(uri: str, chosen: Any) -> Any:
        made.append(prepare(make_config()))
        return real(uri, chosen)

    monkeypatch.setattr(collecting, "_delete", after_a_preparation)
    collect(dataset, older_than=0)
    assert made[0].made == {}, "all was taken from storage"
    assert read_everything(dataset, made[0].snapshot) == 11


def test_what_is_being_deleted_is_made_again(
    dataset: str, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clean-up has read the snapshots; a preparation then wants what it is about to delete,
    and writes it again."""
    for number in (1, 2):
        storage.remove(snapshot.snapshot_path(dataset, number))
    real, made = collecting._named, []

    def before_a_preparation(uri: str, *arguments: Any) -> Any:
        known = real(uri, *arguments)
        if storage.names(storage.join(uri, leaving.FOLDER)) and not made:
            made.append(prepare(make_config()))
        return known

    monkeypatch.setattr(collecting, "_named", before_a_preparation)
    collect(dataset, older_than=0)
    assert made[0].made["latents"] == 11
    assert read_everything(dataset, made[0].snapshot) == 11
    assert not storage.names(storage.join(dataset, leaving.FOLDER))


def test_many_small_parts_become_one_and_lose_nothing(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "PARTS", 3)
    config = make_config()
    for number in range(5):
        draw(source / f"new-{number}.png", 100 + number, caption="new")
        prepare(config)
    catalog = storage.join(config.dataset, "catalog")

    def content() -> set[bytes]:
        return set(
            tables.open_table(catalog, tables.SCANS).to_table(columns=["key"])["key"].to_pylist()
        )

    known, parts = content(), storage.names(catalog)
    assert collect(config.dataset).merged == {"catalog": 5}
    [merged] = tables.parts_of(catalog)
    assert set(storage.names(catalog)) == {*parts, merged.rsplit("/", 1)[1]}, (
        "a reader that has listed them finds them"
    )
    assert content() == known
    assert len(pq.read_table(merged)) == len(known)
    assert prepare(config).scanned == 0
    assert collect(config.dataset).files == {}
    assert collect(config.dataset, older_than=0).files == {"catalog": 5}
    assert storage.names(catalog) == [merged.rsplit("/", 1)[1]]
    assert content() == known
    for number in range(4):
        draw(source / f"more-{number}.png", 200 + number, caption="new")
        prepare(config)
    assert collect(config.dataset, older_than=0).merged == {"catalog": 5}
    assert len(content()) == len(known) + 4
    assert prepare(config).scanned == 0
