"""Which rows of a dataset a run takes in which order, and how long it is; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.read import check_dataset
from raytrain.errors import UserError


def batch_sampler_of(config: Config, counts: dict[str, int]) -> BatchSampler:
    """Return the plan of a run over a dataset's training rows."""
    if not sum(counts.values()):
        raise UserError(
            f"The dataset {config.dataset!r} has no training rows. Add images or lower "
            "data.held_out."
        )
    train = config.train
    epochs = train.epochs if train.steps is None else None
    return BatchSampler(
        counts,
        batch=train.global_batch,
        seed=config.seed,
        steps=train.steps,
        repeats=config.data.repeats,
        epochs=epochs or (10 if train.steps is None else None),
    )


def pinned(config: Config, state: Mapping[str, Any] | None) -> Config:
    """Name the snapshot of the dataset that a run continues with: the one its checkpoint's state
    has, unless the config names another."""
    if state is None or config.data.snapshot != "latest":
        return config
    data = config.data.model_copy(update={"snapshot": str(state["snapshot"]), "partial": True})
    return config.model_copy(update={"data": data})


def total_steps(config: Config) -> int:
    """Return the optimizer steps of a run over the dataset it has, or continues with."""
    found = checkpoint.listing(config.output)
    manifest = check_dataset(pinned(config, checkpoint.read_state(found[-1]) if found else None))
    entries = {name: count.entries for name, count in manifest.buckets.items()}
    return batch_sampler_of(config, entries).total_steps


def finished(config: Config) -> bool:
    """Return whether a run's result is already written."""
    return storage.exists(storage.join(config.output, "train.json"))
