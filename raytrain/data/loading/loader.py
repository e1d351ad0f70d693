"""From batch sampler and dataset to one worker's batches, built ahead of the step by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raytrain import rng
from raytrain.batch import Batch, Columns
from raytrain.data.loading.batch_sampler import BatchSampler, share
from raytrain.data.loading.read import Dataset, Rows

Made = TypeVar("Made")

STREAMS = {"image": "version/moments", "caption": "version/text"}
"""The stream that chooses a row's version in all columns made of the same; the names stay,
and with them what is drawn."""


@dataclass(frozen=True)
class Step:
    """What one worker computes in one optimizer step."""

    number: int
    epoch: int
    bucket: str
    batch: Batch
    live: np.ndarray
    """(n,) bool: False for padding."""
    global_rows: int
    """Rows of all workers, padding not counted: what the loss is averaged over."""


class Loader:
    """One worker's steps, each a pure function of its number."""

    def __init__(
        self,
        dataset: Dataset,
        batch_sampler: BatchSampler,
        *,
        rank: int = 0,
        world_size: int = 1,
        caption_dropout: float = 0.0,
        columns: Collection[str] | None = None,
    ) -> None:
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.columns = tuple(dataset.manifest.columns if columns is None else columns)
        self.rank, self.world_size, self.caption_dropout = rank, world_size, caption_dropout
        self._empty: dict[str, Tensor] = {}
        if caption_dropout:
            self._empty = {
                name: _tensor(array.copy())
                for name, array in dataset.empties(self.columns).items()
            }

    def step(self, number: int) -> Step:
        """Build one step's work."""
        plan = self.batch_sampler.at(number)
        positions = share(len(plan.rows), self.rank, self.world_size, self.batch_sampler.batch)
        live = positions >= 0
        filled = np.where(live, positions, 0)  # padding repeats a row of the batch with weight 0
        numbers = plan.rows[filled]
        occurrences = self.dataset.occurrences(
            plan.bucket, numbers, plan.occurrences[filled]
        ).tolist()

        def pick(of: str, ids: list[str], counts: np.ndarray) -> np.ndarray:
            """Choose a version of each row for this occurrence."""
            if (counts == 1).all():
                return np.zeros(len(ids), np.int64)
            shares = rng.uniform(self.batch_sampler.seed, STREAMS[of], ids, occurrences)
            chosen: np.ndarray = np.floor(shares * counts).astype(np.int64)
            return chosen

        rows = self.dataset.rows(plan.bucket, numbers, pick=pick, columns=self.columns)
        rows.weights[~live] = 0
        return Step(
            number,
            plan.epoch,
            plan.bucket,
            self._drop_captions(to_batch(rows, occurrences)),
            live,
            len(plan.rows),
        )

    def _drop_captions(self, batch: Batch) -> Batch:
        if not self.caption_dropout:
            return batch
        dropped = (
            rng.uniform(self.batch_sampler.seed, "caption_dropout", batch.ids, batch.occurrences)
            < self.caption_dropout
        )
        columns = Columns(batch.columns)
        for name, empty in self._empty.items():
            columns[name] = columns[name].clone()
            columns[name][torch.from_numpy(dropped)] = empty
        return replace(batch, columns=columns)


def to_batch(rows: Rows, occurrences: list[int]) -> Batch:
    """Wrap rows as a batch of tensors."""
    columns = Columns({name: _tensor(values) for name, values in rows.columns.items()})
    return Batch(rows.ids, occurrences, torch.from_numpy(rows.weights), columns)


def _tensor(values: np.ndarray) -> Tensor:
    """Return a tensor on the array's own memory; token ids as int64,
    the type of tokenizers and embeddings."""
    tensor = torch.from_numpy(values)
    return tensor.long() if values.dtype == np.int32 else tensor


def prefetch(make: Callable[[int], Made], numbers: range, depth: int = 2) -> Iterator[Made]:
    """Yield make(number) for each number in order, up to `depth` of them made ahead by two
    threads.

    A batch's memory is used again once nothing refers to it. So few are alive at a time that they
    stay in the cache, which makes reading faster; more would help only where one batch takes
    longer than the steps of several.
    """
    pool = ThreadPoolExecutor(2, thread_name_prefix="prefetch")
    pending: deque[Future[Made]] = deque()
    try:
        for number in numbers:
            pending.append(pool.submit(make, number))
            if len(pending) > depth:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
