"""The batch sampler: which row is trained on at which step, a pure function of (seed, counts,
batch).

Its state is one integer. Every bucket is an endless stream of its rows, one permutation an epoch
after the other, cut into batches of the global size. A batch that an epoch's last rows do not fill
takes the rest from the next epoch; after the last epoch it comes short. So E epochs show every row
exactly E x repeats times, on any number of workers, whatever was killed and resumed between.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raytrain.rng import stream


@dataclass(frozen=True)
class GlobalBatch:
    """One global batch: rows of one bucket, in order."""

    step: int
    epoch: int
    bucket: str
    rows: np.ndarray
    """(n,) row numbers in the bucket's order of ids; n is the batch size,
    less only after the last epoch."""
    occurrences: np.ndarray
    """(n,) how often each of these rows was used before."""


class BatchSampler:
    """Plan of a whole run over `counts` rows per bucket.

    Give `epochs` for a run of whole epochs or `steps` for a fixed number of steps; of a run whose
    dataset grows, the plan of its steps from `first_step` on, which begins with `first_epoch`.
    Raises ValueError without rows.
    """

    def __init__(
        self, counts: Mapping[str, int], *, batch: int, seed: int, epochs: int | None = None,
        steps: int | None = None, repeats: int = 1, first_step: int = 0, first_epoch: int = 0,
    ) -> None:  # fmt: skip
        self.counts = {name: count for name, count in sorted(counts.items()) if count}
        if not self.counts or (epochs is None) == (steps is None):
            raise ValueError("a batch sampler needs rows and either epochs or steps")
        self.batch, self.seed, self.repeats, self.epochs = batch, seed, repeats, epochs
        self.first_step, self.first_epoch = first_step, first_epoch
        self.rows_per_epoch = sum(self.counts.values()) * repeats
        own = self._own_until(epochs) if epochs is not None else steps or 0
        self.total_steps = first_step + own
        """Steps of the run at the end of this plan."""

    def at(self, step: int) -> GlobalBatch:
        """Return the batch of a step (0-based); a pure function of the step."""
        if not self.first_step <= step < self.total_steps:
            raise IndexError(
                f"step {step} is outside the plan's steps {self.first_step} to {self.total_steps}"
            )
        epoch, first = self.epoch_of(step)
        bucket, number = self._order(epoch - self.first_epoch)[step - first]
        length = self.counts[bucket] * self.repeats
        start, stop = number * self.batch, (number + 1) * self.batch
        if self.epochs is not None:
            stop = min(stop, self.epochs * length)
        passes = range(start // length, -(-stop // length))
        parts = [
            self._permutation(bucket, p)[max(start - p * length, 0) : stop - p * length]
            for p in passes
        ]
        entries = np.concatenate(parts)
        shown = self.first_epoch + np.arange(start, stop) // length
        occurrences = shown * self.repeats + entries // self.counts[bucket]
        return GlobalBatch(step, epoch, bucket, entries % self.counts[bucket], occurrences)

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Return the epoch a step belongs to and that epoch's first step."""
        own = step - self.first_step
        # An epoch's end is off its mean by less than a batch a bucket: the guess is never too
        # late, and the walk is short.
        epoch = max(0, (own - len(self.counts)) * self.batch // self.rows_per_epoch - 1)
        while epoch != self.epochs and self._own_until(epoch + 1) <= own:
            epoch += 1
        return self.first_epoch + epoch, self.first_step + self._own_until(epoch)

    def shown_whole_at(self, bucket: str, epoch: int) -> int:
        """Return the number of steps after which a bucket's epoch has surely been shown whole.

        A batch that an epoch's last rows do not fill is one of a later epoch's batches, whose
        order is drawn, so only that epoch's end is certain.
        """
        later = epoch - self.first_epoch + 1
        last = -(-later * self.counts[bucket] * self.repeats // self.batch) - 1
        while self._batches_until(bucket, later) <= last:
            later += 1
        return self.first_step + self._own_until(later)

    def _batches_until(self, bucket: str, epoch: int) -> int:
        """Return the number of a bucket's batches in epochs before `epoch`."""
        rows = epoch * self.counts[bucket] * self.repeats
        return -(-rows // self.batch) if epoch == self.epochs else rows // self.batch

    def _own_until(self, epoch: int) -> int:
        return sum(self._batches_until(bucket, epoch) for bucket in self.counts)

    @functools.lru_cache(maxsize=2)  # noqa: B019 - a run holds one batch sampler
    def _order(self, epoch: int) -> list[tuple[str, int]]:
        batches = [
            (bucket, number)
            for bucket in self.counts
            for number in range(
                self._batches_until(bucket, epoch), self._batches_until(bucket, epoch + 1)
            )
        ]
        turn = self.first_epoch + epoch
        order = stream(self.seed, "batches", occurrence=turn).permutation(len(batches))
        return [batches[i] for i in order]

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def _permutation(self, bucket: str, epoch: int) -> np.ndarray:
        return stream(self.seed, "rows", bucket, self.first_epoch + epoch).permutation(
            self.counts[bucket] * self.repeats
        )


def share(size: int, rank: int, world_size: int, batch: int) -> np.ndarray:
    """Return the positions (ceil(batch / world_size),) of a global batch that one worker computes;
    -1 is padding.

    A batch of `size` rows is dealt out in turn; where it is short, or does not divide, padding
    makes all workers do equal work.
    """
    positions = np.arange(rank, -(-batch // world_size) * world_size, world_size)
    return np.where(positions < size, positions, -1)
