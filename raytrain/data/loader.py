"""From ledger and dataset to one worker's batches, built ahead of the step by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from raytrain.data.ledger import Ledger, share
from raytrain.data.read import Dataset, Rows
from raytrain.diffusion import noise

Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """Rows of one bucket that one worker computes in one go; n rows, padding included."""

    ids: list[str]
    visits: list[int]
    weights: Tensor
    """(n,) float32: factor on each row's loss; 0 for padding."""
    moments: Tensor
    """(n, 2C, h, w) float16."""
    columns: dict[str, Tensor]
    """Text columns (n, ...) float16 and `sizes` (n, 6) float32."""
    masks: Tensor | None = None
    """(n, h, w) uint8: 255 where the loss counts in full, 0 where it does not."""

    def split(self, size: int) -> list[Batch]:
        """Cut into micro-batches of at most `size` rows."""
        parts = [slice(start, start + size) for start in range(0, len(self.ids), size)]
        return [replace(self._map(itemgetter(p)), ids=self.ids[p], visits=self.visits[p]) for p in parts]

    def pin(self) -> Batch:
        """Copy the tensors to pinned memory, whence `to` copies without waiting; Torch reuses it when those copies are done."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """Copy the tensors from the CPU to a device, without waiting for those in pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        return replace(
            self, weights=change(self.weights), moments=change(self.moments),
            columns={name: change(column) for name, column in self.columns.items()},
            masks=None if self.masks is None else change(self.masks),
        )  # fmt: skip


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
        self, dataset: Dataset, ledger: Ledger, *, rank: int = 0, world: int = 1, caption_dropout: float = 0.0
    ) -> None:
        self.dataset, self.ledger = dataset, ledger
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
        visits = self.dataset.visits(plan.bucket, numbers, plan.visits[filled]).tolist()

        def pick(store: str, ids: list[str], counts: np.ndarray) -> np.ndarray:
            """Choose a version of each row for this visit."""
            if (counts == 1).all():
                return np.zeros(len(ids), np.int64)
            shares = noise.uniform(self.ledger.seed, f"version/{store}", ids, visits)
            chosen: np.ndarray = np.floor(shares * counts).astype(np.int64)
            return chosen

        rows = self.dataset.rows(plan.bucket, numbers, pick=pick)
        rows.weights[~live] = 0
        return Step(number, plan.epoch, plan.bucket, self._drop_captions(to_batch(rows, visits)), live, len(plan.rows))

    def _drop_captions(self, batch: Batch) -> Batch:
        if not self.caption_dropout:
            return batch
        dropped = noise.uniform(self.ledger.seed, "caption_dropout", batch.ids, batch.visits) < self.caption_dropout
        columns = dict(batch.columns)
        for name, empty in self._empty.items():
            columns[name] = columns[name].clone()
            columns[name][torch.from_numpy(dropped)] = empty
        return replace(batch, columns=columns)


def to_batch(rows: Rows, visits: list[int]) -> Batch:
    """Wrap rows as a batch of tensors."""
    columns = {name: torch.from_numpy(values) for name, values in rows.text.items()}
    columns["sizes"] = torch.from_numpy(rows.sizes.astype(np.float32))
    masks = None if rows.masks is None else torch.from_numpy(rows.masks)
    return Batch(rows.ids, visits, torch.from_numpy(rows.weights), torch.from_numpy(rows.moments), columns, masks)


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
