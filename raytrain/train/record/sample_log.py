"""The rows that every worker has really trained on, for `raytrain data audit`.

<output>/sample_log/<launch>-<rank>-<first step>.parquet     a worker's rows since the last
                                                             checkpoint

A part is written before the checkpoint that its steps lead to. Steps repeated after a failure are
logged twice, once for each launch; `read` returns those of the launch that the last checkpoint
continues.
"""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from raytrain import storage
from raytrain.data.loading.loader import Step

FOLDER = "sample_log"
SCHEMA = pa.schema([
    ("launch", pa.int64()), ("start", pa.int32()), ("rank", pa.int32()), ("step", pa.int32()),
    ("id", pa.uint64()), ("occurrence", pa.int32()),
])  # fmt: skip
"""`launch` is the time the workers started, in nanoseconds since 1970, and `start` the steps
done then; `id` the first eight bytes of the image's, `occurrence` how often it had been trained on
before."""


class SampleLog:
    """One worker's log."""

    def __init__(self, output: str, start: int, rank: int, world_size: int) -> None:
        self._folder, self._start, self._rank = storage.join(output, FOLDER), start, rank
        launch = [time.time_ns()]
        if world_size > 1:
            dist.broadcast_object_list(launch)
        self._launch = launch[0]
        self._steps: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, step: Step) -> None:
        """Note the rows of a step that has been trained on, padding left out."""
        rows = np.flatnonzero(step.live)
        ids = np.array([int(step.batch.ids[row][:16], 16) for row in rows], np.uint64)
        self._steps.append(
            (step.number, ids, np.array([step.batch.occurrences[row] for row in rows], np.int32))
        )

    def write(self) -> None:
        """Write what was noted since the last time."""
        if not self._steps:
            return
        steps = np.concatenate([np.full(len(ids), number) for number, ids, _ in self._steps])
        columns = {
            "launch": np.full(len(steps), self._launch), "start": np.full(len(steps), self._start),
            "rank": np.full(len(steps), self._rank), "step": steps,
            "id": np.concatenate([ids for _, ids, _ in self._steps]),
            "occurrence": np.concatenate([occurrences for *_, occurrences in self._steps]),
        }  # fmt: skip
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns).cast(SCHEMA), sink, compression="zstd")
        name = f"{self._launch:020d}-{self._rank:05d}-{self._steps[0][0]:09d}.parquet"
        storage.write_bytes(storage.join(self._folder, name), sink.getvalue().to_pybytes())
        self._steps.clear()


def read(output: str, steps: int) -> pa.Table | None:
    """Return the rows of a run's first `steps` steps, by step, id and occurrence;
    None where the run has no sample log."""
    names = [
        name for name in storage.names(storage.join(output, FOLDER)) if name.endswith(".parquet")
    ]
    if not names:
        return None
    parts = [
        pq.read_table(pa.BufferReader(storage.read_bytes(storage.join(output, FOLDER, name))))
        for name in names
    ]
    table = pa.concat_tables(parts)
    launch, start, step = (table[name].to_numpy() for name in ("launch", "start", "step"))
    counts = step < steps
    for later in np.unique(
        launch
    ):  # of earlier launches only the steps before a launch's start count
        counts &= (launch >= later) | (step < start[launch == later].min())
    return table.filter(counts).sort_by(
        [("step", "ascending"), ("id", "ascending"), ("occurrence", "ascending")]
    )
