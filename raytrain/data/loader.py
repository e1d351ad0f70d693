"""From ledger and dataset to one worker's batches, built ahead of the step by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from raytrain import rng
from raytrain.batch import Batch, Columns
from raytrain.data.ledger import Ledger, share
from raytrain.data.read import READ, Dataset, Rows

Made = TypeVar("Made")


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
        ledger: Ledger,
        *,
        rank: int = 0,
        world: int = 1,
        caption_dropout: float = 0.0,
        columns: Collection[str] = READ,
    ) -> None:
        self.dataset, self.ledger, self.columns = dataset, ledger, columns
        self.rank, self.world, self.caption_dropout = rank, world, caption_dropout
        self._empty = (
            {name: torch.from_numpy(v.copy()) for name, v in dataset.empty_text().items()} if caption_dropout else {}
        )

    def step(self, number: int) -> Step:
        """Build one step's work."""
        plan = self.ledger.at(number)
        positions = share(len(plan.rows), self.rank, self.world, self.ledger.batch)
        live = positions >= 0
        filled = np.where(live, positions, 0)  # padding repeats a row of the batch with weight 0
        numbers = plan.rows[filled]
        occurrences = self.dataset.occurrences(plan.bucket, numbers, plan.occurrences[filled]).tolist()

        def pick(store: str, ids: list[str], counts: np.ndarray) -> np.ndarray:
            """Choose a version of each row for this occurrence."""
            if (counts == 1).all():
                return np.zeros(len(ids), np.int64)
            shares = rng.uniform(self.ledger.seed, f"version/{store}", ids, occurrences)
            chosen: np.ndarray = np.floor(shares * counts).astype(np.int64)
            return chosen

        rows = self.dataset.rows(plan.bucket, numbers, pick=pick, columns=self.columns)
        rows.weights[~live] = 0
        return Step(
            number, plan.epoch, plan.bucket, self._drop_captions(to_batch(rows, occurrences)), live, len(plan.rows)
        )

    def _drop_captions(self, batch: Batch) -> Batch:
        if not self.caption_dropout:
            return batch
        dropped = rng.uniform(self.ledger.seed, "caption_dropout", batch.ids, batch.occurrences) < self.caption_dropout
        columns = Columns(batch.columns)
        for name, empty in self._empty.items():
            columns[name] = columns[name].clone()
            columns[name][torch.from_numpy(dropped)] = empty
        return replace(batch, columns=columns)


def to_batch(rows: Rows, occurrences: list[int]) -> Batch:
    """Wrap rows as a batch of tensors."""
    columns = Columns({name: torch.from_numpy(values) for name, values in rows.columns.items()})
    return Batch(rows.ids, occurrences, torch.from_numpy(rows.weights), columns)


def prefetch(make: Callable[[int], Made], numbers: range, depth: int = 2) -> Iterator[Made]:
    """Yield make(number) for each number in order, up to `depth` of them made ahead by two threads.

    A batch's memory is used again once nothing refers to it. So few are alive at a time that they stay in the cache, which
    makes reading faster; more would help only where one batch takes longer than the steps of several.
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
