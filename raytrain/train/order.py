"""Which rows of a dataset a run takes in which order, and how long it is; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config.data import GROWING, LATEST
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.read import check_dataset
from raytrain.errors import UserError


@dataclass(frozen=True)
class Segment:
    """Steps of a run over one snapshot: one epoch of a dataset that still grows, so that the next
    may be of a newer one, or all that are left."""

    snapshot: int
    step: int = 0
    """The first step."""
    epoch: int = 0
    """The first epoch."""
    last: bool = True
    """No other follows."""


def segments_of(state: Mapping[str, Any]) -> list[Segment]:
    """Return the segments that a checkpoint's run has begun."""
    kept = state.get("segments", [asdict(Segment(state["snapshot"]))])
    return [Segment(**each) for each in kept]


def batch_sampler_of(
    config: Config, counts: dict[str, int], segment: Segment | None = None
) -> BatchSampler:
    """Return the plan of a run over a dataset's training rows, or of one of its segments."""
    if not sum(counts.values()):
        raise UserError(
            f"The dataset {config.dataset!r} has no training rows. Add images or lower "
            "data.held_out."
        )
    train, first = config.train, segment or Segment(0)
    steps, epochs = train.steps, train.epochs or 10
    if not first.last:
        steps, epochs = None, 1
    elif steps is not None:
        steps -= first.step
    return BatchSampler(
        counts,
        batch=train.global_batch,
        seed=config.seed,
        steps=steps,
        repeats=config.data.repeats,
        epochs=epochs if steps is None else None,
        first_step=first.step,
        first_epoch=first.epoch,
    )


def pinned(config: Config, state: Mapping[str, Any] | None) -> Config:
    """Name the snapshot of the dataset that a run continues with: the one its checkpoint's state
    has, unless the config names another."""
    if state is None or config.data.snapshot not in (LATEST, GROWING):
        return config
    return at_snapshot(config, int(state["snapshot"]))


def at_snapshot(config: Config, number: int) -> Config:
    """Return a config that names a snapshot, published at the end of a preparation or before."""
    data = config.data.model_copy(update={"snapshot": str(number), "partial": True})
    return config.model_copy(update={"data": data})


def total_steps(config: Config) -> int:
    """Return the optimizer steps of a run over the dataset it has, or continues with."""
    found = checkpoint.listing(config.output)
    manifest = check_dataset(pinned(config, checkpoint.read_state(found[-1]) if found else None))
    if config.data.snapshot == GROWING and config.train.steps is not None:
        return config.train.steps
    entries = {name: count.entries for name, count in manifest.buckets.items()}
    return batch_sampler_of(config, entries).total_steps


def finished(config: Config) -> bool:
    """Return whether a run's result is already written."""
    return storage.exists(storage.join(config.output, "train.json"))
