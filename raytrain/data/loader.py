"""From ledger and dataset to one worker's batches, built ahead of the step by a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
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
    """(n,) float32: 1 for a row, 0 for padding."""
    moments: Tensor
    """(n, 2C, h, w) float16."""
    columns: dict[str, Tensor]
    """Text columns (n, ...) float16 and `sizes` (n, 6) float32."""

    def split(self, size: int) -> list[Batch]:
        """Cut into micro-batches of at most `size` rows."""
        return [self._part(slice(start, start + size)) for start in range(0, len(self.ids), size)]

    def to(self, device: torch.device) -> Batch:
        """Copy the tensors to a device; pinned memory copies without waiting."""
        if device.type == "cpu":
            return self
        columns = {name: _move(column, device) for name, column in self.columns.items()}
        return replace(self, weights=_move(self.weights, device), moments=_move(self.moments, device), columns=columns)

    def _part(self, part: slice) -> Batch:
        columns = {name: column[part] for name, column in self.columns.items()}
        return Batch(self.ids[part], self.visits[part], self.weights[part], self.moments[part], columns)


@dataclass(frozen=True)
class Step:
    """What one worker computes in one optimizer step."""

    number: int
    epoch: int
    bucket: str
    batch: Batch
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
        batch = to_batch(self.dataset.rows(plan.bucket, plan.rows[filled]), [int(v) for v in plan.visits[filled]])
        batch = replace(batch, weights=torch.from_numpy(live.astype(np.float32)))
        return Step(number, plan.epoch, plan.bucket, self._drop_captions(batch), len(plan.rows))

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
    """Wrap rows as a batch of tensors, every weight 1."""
    columns = {name: torch.from_numpy(values) for name, values in rows.text.items()}
    columns["sizes"] = torch.from_numpy(rows.sizes.astype(np.float32))
    return Batch(rows.ids, visits, torch.ones(len(rows.ids)), torch.from_numpy(rows.moments), columns)


def prefetch(make: Callable[[int], Made], numbers: range, depth: int = 4) -> Iterator[Made]:
    """Yield make(number) for each number in order, up to `depth` of them made ahead by two threads."""
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


def _move(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)
