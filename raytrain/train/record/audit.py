"""Recompute what a run was to train on, and check that it did and what was promised of it.

A run's batches are a function of its config, the snapshots that it took from which step on and the
number of steps it has done, so all of them can be computed again, and compared with the sample log
that its workers wrote as they trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config.file import load
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.read import Dataset
from raytrain.data.store.schema import HELD_OUT, TRAIN
from raytrain.errors import UserError
from raytrain.log import read_metrics
from raytrain.table import Table
from raytrain.train.order import Segment, batch_sampler_of, segments_of
from raytrain.train.record import sample_log


class EpochSeen(Table):
    """What one epoch showed, over all buckets; a bucket's epochs follow each other without a
    gap."""

    epoch: int
    planned: int
    """Entries (rows as often as they repeat) of a whole epoch."""
    shown: int
    rows: int
    """Different rows among them."""
    wrong: int
    """Entries of a whole epoch that were not shown exactly as often as they should,
    or more often in one that is not finished."""


class Audit(Table):
    """What a run has seen, and which promises were broken."""

    output: str
    steps: int
    total_steps: int
    snapshots: Annotated[tuple[int, ...], Field(strict=False)]
    """Those trained on, in order: one, unless the dataset grew meanwhile."""
    epochs: Annotated[tuple[EpochSeen, ...], Field(strict=False)]
    ranks: dict[int, int] | None
    """Rows that each worker has trained on, by its sample log; None where the run has none."""
    broken: Annotated[tuple[str, ...], Field(strict=False)]


@dataclass(frozen=True)
class Part:
    """The steps of a run that are of one segment."""

    dataset: Dataset
    batch_sampler: BatchSampler
    steps: range


def audit(config: Config) -> Audit:
    """Audit the run in `config.output` up to its last checkpoint; UserError where there is none,
    or a snapshot of its is gone."""
    folder = checkpoint.find(config.output)
    assert folder is not None
    state = checkpoint.read_state(folder)
    steps = int(state["step"])
    parts = _parts(config, segments_of(state), steps)
    last = parts[-1]
    total = last.batch_sampler.total_steps
    if not segments_of(state)[-1].last and config.train.steps is not None:
        total = config.train.steps
    broken = list(_files(config, state, last.dataset, total))
    epochs, trained = [], set()
    for part in parts:
        seen, rows = _seen(part)
        epochs += [
            _epoch(part.batch_sampler, seen, epoch, steps)
            for epoch in sorted({epoch for _, epoch in seen})
        ]
        trained |= _ids(part.dataset, rows)
    broken += [
        f"epoch {one.epoch + 1}: {one.wrong} entries were not shown exactly as often as promised"
        for one in epochs
        if one.wrong
    ]
    logged_rows = sample_log.read(config.output, steps)
    if logged_rows is not None:
        broken += _differences(logged_rows, parts)
    held_out = len(trained & _held_out(last.dataset))
    if held_out:
        broken.append(f"{held_out} held-out images were trained on")
    return Audit(
        output=config.output,
        steps=steps,
        total_steps=total,
        snapshots=tuple(dict.fromkeys(part.dataset.manifest.number for part in parts)),
        epochs=tuple(epochs),
        ranks=None if logged_rows is None else dict(Counter(logged_rows["rank"].to_pylist())),
        broken=tuple(broken),
    )


def _parts(config: Config, segments: Sequence[Segment], steps: int) -> list[Part]:
    """Return the parts of a run's first `steps` steps."""
    opened: dict[int, Dataset] = {}
    parts = []
    for segment, after in zip_longest(segments, segments[1:]):
        number = segment.snapshot
        if number not in opened:
            opened[number] = Dataset(config.dataset, str(number), partial=True)
        sampler = batch_sampler_of(config, opened[number].counts(), segment)
        end = min(after.step if after else steps, sampler.total_steps)
        parts.append(Part(opened[number], sampler, range(segment.step, end)))
    return parts


def config_of(where: str, overrides: tuple[str, ...] = ()) -> Config:
    """Return the config of a run: a TOML file's, or the one that the run's folder keeps."""
    if where.endswith(".toml"):
        return load(where, overrides)
    kept = storage.join(where, "config.toml")
    if not storage.exists(kept):
        raise UserError(
            f"{where!r} is no run: it has no config.toml. Give a run's folder (`output`) or its "
            "config file."
        )
    config = load(storage.fetch(kept), overrides)
    return config.model_copy(
        update={
            "output": where,
            "data": config.data.model_copy(update={"dataset": config.dataset}),
        }
    )


def _files(config: Config, state: dict[str, Any], dataset: Dataset, total: int) -> Iterator[str]:
    """Yield what the run's files contradict."""
    if state["dataset"] != dataset.manifest.fingerprint:
        yield (
            f"the checkpoint was trained on rows with the fingerprint {state['dataset'][:12]}, "
            f"but snapshot {dataset.manifest.number} has {dataset.manifest.fingerprint[:12]}"
        )
    try:
        checkpoint.check_same_run(state, config, state["dataset"], config.output)
    except UserError as error:
        yield f"the config is not the run's: {error}"
    if state["step"] > total:
        yield f"the checkpoint is at step {state['step']}, but the plan ends after {total}"
    logged = [
        row["step"]
        for row in read_metrics(config.output)
        if "loss" in row and row["step"] <= state["step"]
    ]
    if len(logged) != len(set(logged)) or logged != sorted(logged):
        yield "metrics.jsonl has steps twice or out of order"


def _seen(part: Part) -> tuple[dict[tuple[str, int], np.ndarray], dict[str, np.ndarray]]:
    """Return how often each entry of a bucket was shown in each of its epochs,
    and which entries of a bucket ever were."""
    seen: dict[tuple[str, int], np.ndarray] = {}
    batch_sampler = part.batch_sampler
    trained = {bucket: np.zeros(count, bool) for bucket, count in batch_sampler.counts.items()}
    for step in part.steps:
        batch = batch_sampler.at(step)
        epochs = batch.occurrences // batch_sampler.repeats
        for epoch in np.unique(epochs):
            key = (batch.bucket, int(epoch))
            if key not in seen:
                seen[key] = np.zeros(batch_sampler.counts[batch.bucket], np.int32)
            np.add.at(seen[key], batch.rows[epochs == epoch], 1)
        trained[batch.bucket][batch.rows] = True
    return seen, trained


def _epoch(
    batch_sampler: BatchSampler,
    seen: dict[tuple[str, int], np.ndarray],
    epoch: int,
    steps: int,
) -> EpochSeen:
    own = {bucket: shown for (bucket, number), shown in seen.items() if number == epoch}
    wrong = 0
    for bucket, shown in own.items():
        whole = steps >= batch_sampler.shown_whole_at(bucket, epoch)
        wrong += int(
            (shown != batch_sampler.repeats).sum()
            if whole
            else (shown > batch_sampler.repeats).sum()
        )
    return EpochSeen(
        epoch=epoch,
        planned=batch_sampler.rows_per_epoch,
        shown=sum(int(shown.sum()) for shown in own.values()),
        rows=sum(int((shown > 0).sum()) for shown in own.values()),
        wrong=wrong,
    )


def _differences(logged_rows: pa.Table, parts: Sequence[Part]) -> Iterator[str]:
    """Yield the first step whose logged rows differ from the plan."""
    found = np.split(
        np.stack(
            [logged_rows["id"].to_numpy(), logged_rows["occurrence"].to_numpy().astype(np.uint64)],
            axis=1,
        ),
        np.searchsorted(logged_rows["step"].to_numpy(), np.arange(1, parts[-1].steps.stop)),
    )
    for step, part in [(step, each) for each in parts for step in each.steps]:
        plan, dataset = part.batch_sampler.at(step), part.dataset
        index = dataset.index(plan.bucket)
        ids = index.ids[index.entries[plan.rows], :8].copy().view(">u8")[:, 0].astype(np.uint64)
        planned = np.stack(
            [ids, dataset.occurrences(plan.bucket, plan.rows, plan.occurrences).astype(np.uint64)],
            axis=1,
        )
        if not np.array_equal(planned[np.lexsort(planned.T[::-1])], found[step]):
            yield (
                f"step {step + 1}: by their sample logs the workers have trained on "
                f"{len(found[step])} rows, not on the {len(planned)} that were planned, or on "
                "others"
            )
            return


def _held_out(dataset: Dataset) -> set[bytes]:
    """Return the held-out images, by content, in whatever bucket."""
    return {
        row.tobytes()
        for bucket in dataset.manifest.buckets
        for row in dataset.index(bucket, HELD_OUT).ids
    }


def _ids(dataset: Dataset, trained: Mapping[str, np.ndarray]) -> set[bytes]:
    """Return the images, by content, of entries that were trained on."""
    found: set[bytes] = set()
    for bucket, shown in trained.items():
        index = dataset.index(bucket, TRAIN)
        rows = np.unique(index.entries[np.flatnonzero(shown)])
        found |= {row.tobytes() for row in index.ids[rows]}
    return found
