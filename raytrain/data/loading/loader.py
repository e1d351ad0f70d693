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
from raytrain.config import Config
from raytrain.config.period import steps_of
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


@dataclass(frozen=True)
class Captions:
    """Which of a row's stored captions a run reads, and when."""

    dropout: float = 0.0
    dropout_epochs: int = 0
    """Every so manieth of a row's epochs its caption is dropped; 0: in none."""
    to_trigger: bool = False
    """A dropped caption is the last stored version, not the empty caption."""
    warmup: int = 0
    """Steps with the versions of the first tags."""

    @classmethod
    def of(cls, config: Config, total_steps: int) -> Captions:
        """Return what a config says for a run of so many steps."""
        rule = config.objective
        return cls(
            rule.caption_dropout,
            rule.caption_dropout_epochs,
            config.data.captions.dropped == "trigger",
            steps_of(rule.caption_warmup, total_steps),
        )

    @property
    def drops(self) -> bool:
        """Whether any caption is dropped."""
        return bool(self.dropout or self.dropout_epochs)

    def stage(self, step: int, stages: int) -> int:
        """Return the block of versions that a step reads: 0 has the whole captions, 1 the fewest
        tags."""
        return 1 + step * stages // self.warmup if stages and step < self.warmup else 0


class Loader:
    """One worker's steps, each a pure function of its number."""

    def __init__(
        self,
        dataset: Dataset,
        batch_sampler: BatchSampler,
        *,
        rank: int = 0,
        world_size: int = 1,
        captions: Captions | None = None,
        columns: Collection[str] | None = None,
    ) -> None:
        self.dataset, self.batch_sampler = dataset, batch_sampler
        self.columns = tuple(dataset.manifest.columns if columns is None else columns)
        self.rank, self.world_size, self.captions = rank, world_size, captions or Captions()
        self.stored = dataset.manifest.settings.get("captions", {})
        self._empty: dict[str, Tensor] = {}
        if self.captions.drops and not self.captions.to_trigger:
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
        epochs = plan.occurrences[filled] // self.batch_sampler.repeats

        def pick(of: str, ids: list[str], counts: np.ndarray) -> np.ndarray:
            return self._pick(number, of, ids, counts, occurrences, epochs)

        rows = self.dataset.rows(plan.bucket, numbers, pick=pick, columns=self.columns)
        rows.weights[~live] = 0
        return Step(
            number,
            plan.epoch,
            plan.bucket,
            self._emptied(to_batch(rows, occurrences), epochs),
            live,
            len(plan.rows),
        )

    def _pick(
        self,
        step: int,
        of: str,
        ids: list[str],
        counts: np.ndarray,
        occurrences: list[int],
        epochs: np.ndarray,
    ) -> np.ndarray:
        """Choose a version of each row for this occurrence."""
        if of != "caption":
            return self._drawn(of, ids, counts, occurrences)
        stages = self.stored.get("warmup_stages", 0)
        alone = int(self.stored.get("dropped") == "trigger")  # the last version
        whole = (counts - alone) // (stages + 1)
        chosen = self._drawn(of, ids, whole, occurrences)
        chosen += self.captions.stage(step, stages) * whole
        if self.captions.to_trigger and self.captions.drops:
            chosen = np.where(self._dropped(ids, occurrences, epochs), counts - 1, chosen)
        return chosen

    def _drawn(
        self, of: str, ids: list[str], counts: np.ndarray, occurrences: list[int]
    ) -> np.ndarray:
        if (counts == 1).all():
            return np.zeros(len(ids), np.int64)
        shares = rng.uniform(self.batch_sampler.seed, STREAMS[of], ids, occurrences)
        drawn: np.ndarray = np.floor(shares * counts).astype(np.int64)
        return drawn

    def _dropped(self, ids: list[str], occurrences: list[int], epochs: np.ndarray) -> np.ndarray:
        """Return which captions are dropped, (n,) bool: by chance, and all in some of a row's
        epochs."""
        seed, rule = self.batch_sampler.seed, self.captions
        found: np.ndarray = np.zeros(len(ids), bool)
        if rule.dropout:
            found |= rng.uniform(seed, "caption_dropout", ids, occurrences) < rule.dropout
        if rule.dropout_epochs:
            found |= (epochs + 1) % rule.dropout_epochs == 0
        return found

    def _emptied(self, batch: Batch, epochs: np.ndarray) -> Batch:
        """Put the empty caption in place of those that are dropped."""
        if not self._empty:
            return batch
        dropped = torch.from_numpy(self._dropped(batch.ids, batch.occurrences, epochs))
        columns = Columns(batch.columns)
        for name, empty in self._empty.items():
            columns[name] = columns[name].clone()
            columns[name][dropped] = empty
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
