"""A run on a dataset that still grows goes on with the newest snapshot at each epoch's end: every
image of a snapshot once an epoch, and resumed bit for bit."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.data.store.snapshot import read_snapshot, snapshot_numbers, snapshot_path
from raytrain.errors import UserError
from raytrain.train import growing, worker
from raytrain.train.order import Segment, batch_sampler_of, segments_of
from raytrain.train.record.audit import audit
from raytrain.train.record.notices import Notices
from raytrain.train.run import Run
from tests.conftest import workers_here
from tests.train.test_resume import Killed, check_resume, stop_after
from tuning.check import check

STEPS = 20
BUCKETS = ("64x64", "80x48", "48x80")


@settings(max_examples=60)
@given(
    st.lists(st.dictionaries(st.sampled_from(BUCKETS), st.integers(1, 9), min_size=1), max_size=4),
    st.dictionaries(st.sampled_from(BUCKETS), st.integers(1, 9), min_size=1),
    st.integers(1, 7),
    st.integers(1, 2),
)
def test_every_entry_once_an_epoch_however_the_dataset_grows(
    early: list[dict[str, int]], whole: dict[str, int], batch: int, repeats: int
) -> None:
    step, drawn = 0, set()
    for epoch, counts in enumerate([*early, whole]):
        last = epoch == len(early)
        plan = BatchSampler(
            counts, batch=batch, seed=1, epochs=2 if last else 1, repeats=repeats,
            first_step=step, first_epoch=epoch,
        )  # fmt: skip
        shown: Counter[tuple[int, str, int, int]] = Counter()
        for number in range(step, plan.total_steps):
            found = plan.at(number)
            assert plan.epoch_of(number)[0] == found.epoch
            for row, occurrence in zip(found.rows, found.occurrences, strict=True):
                shown[occurrence // repeats, found.bucket, int(row), int(occurrence)] += 1
        assert set(shown.values()) == {1}
        assert Counter(key[:3] for key in shown) == {
            (epoch + more, bucket, row): repeats
            for more in range(1 + last)
            for bucket, count in counts.items()
            for row in range(count)
        }
        assert drawn.isdisjoint(shown)  # no draw of a row is made twice
        drawn |= set(shown)
        if not last:
            assert plan.epoch_of(plan.total_steps) == (epoch + 1, plan.total_steps)
        step = plan.total_steps


@pytest.fixture(scope="module")
def grown(world: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """`[data]` of a dataset that was published in parts, and trained on while it grew."""
    from raytrain.config.file import parse

    tables = world("sd15")
    data = {
        **tables["data"],
        "dataset": str(tmp_path_factory.mktemp("grown")),
        "snapshot": "growing",
        "encode": {"shard_rows": 8, "publish_minutes": 1e-9, "group_rows": 4},
    }
    with workers_here():
        prepare(parse({**tables, "data": data, "train": {"steps": 1}}))
    return data


@pytest.fixture
def config(
    run_config: Callable[..., Config], grown: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], Config]:  # fmt: skip
    """Return configs of runs on a dataset that has its first snapshot alone, after the first epoch
    a later one, and then the last."""

    def make(name: str) -> Config:
        folder = tmp_path / f"data-{name}"
        shutil.copytree(grown["dataset"], folder)
        publish(str(folder), 0)
        train = {"steps": STEPS, "learning_rate": 1e-3, "checkpoint_every": 1}
        return run_config(name=name, train=train, data={**grown, "dataset": str(folder)})

    move_on = growing.move_on

    def grow_and_move_on(run: Run) -> None:
        publish(run.dataset.uri, run.segments[-1].epoch + 1)
        move_on(run)

    monkeypatch.setattr(growing, "move_on", grow_and_move_on)
    return make


def publish(dataset: str, epoch: int) -> None:
    """Make the snapshot of an epoch the newest one."""
    number = published(dataset)[min(epoch, 2)]
    tree = storage.read_json(snapshot_path(dataset, number))
    storage.write_json(storage.join(dataset, "manifest.json"), tree)


def published(dataset: str) -> tuple[int, int, int]:
    """Return the snapshots of the first, the second and all later epochs."""
    numbers = snapshot_numbers(dataset)
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def test_a_run_goes_on_with_newer_snapshots(config: Callable[[str], Config]) -> None:
    run = config("run")
    said = Notices(run.output)
    first, second, last = map(partial(read_snapshot, run.dataset), published(run.dataset))
    assert [one.complete for one in (first, second, last)] == [False, False, True]
    worker.train(run)
    found = audit(run)
    assert (found.broken, found.steps, found.total_steps) == ((), STEPS, STEPS)
    assert found.snapshots == published(run.dataset)
    segments = segments_of(checkpoint.read_state(checkpoint.find(run.output) or ""))
    assert [one.last for one in segments] == [False, False, True]
    rows = [sum(count.entries for count in one.buckets.values()) for one in (first, second, last)]
    assert [one.planned for one in found.epochs[:3]] == rows
    assert rows[0] < rows[1] < rows[2]
    assert [one.shown for one in found.epochs[:3]] == rows
    told = [text for text in said.new() if "begins on snapshot" in text]
    assert len(told) == 2
    assert f"on snapshot {second.number}, which still grows: {rows[1]} images to" in told[0]
    assert f"on snapshot {last.number}, to the end: {rows[2]} images to train on, " in told[1]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_it_resumes_bit_for_bit(
    config: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """It ends a step before the second epoch's end, there, and a step after."""
    whole, broken = config("whole"), config("broken")
    end = 0
    for epoch, number in enumerate(published(whole.dataset)[:2]):
        counts = Dataset(whole.dataset, str(number), partial=True).counts()
        segment = Segment(number, end, epoch, last=False)
        end = batch_sampler_of(whole, counts, segment).total_steps
    check_resume(whole, broken, monkeypatch, steps=end + more)
    assert audit(broken).broken == ()
    assert audit(broken).snapshots == audit(whole).snapshots


def test_one_that_no_longer_follows_stays_where_it_is(
    config: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config("run")
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Killed):
            worker.train(run)
    data = run.data.model_copy(update={"snapshot": "latest", "partial": True})
    worker.train(run.model_copy(update={"data": data}))
    found = audit(run)
    assert (found.broken, found.steps) == ((), STEPS)
    assert found.snapshots == published(run.dataset)[:1]


def test_what_it_cannot_go_with_is_refused(
    run_config: Callable[..., Config], grown: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=r'data\.snapshot = "growing" needs train\.steps'):
        run_config(train={"steps": None, "epochs": 2}, data=grown)
    swept = run_config(data=grown, tune={"space": {"method.rank": {"choice": [2, 4]}}})
    with pytest.raises(UserError, match="A sweep needs a dataset that is whole"):
        check(swept)
