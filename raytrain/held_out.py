"""Held-out loss: the plain error on images kept out of training, on fixed noise and timesteps.

The same images, noise and timesteps at every evaluation of every run make small differences
visible.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from raytrain.batch import Batch, Columns
from raytrain.config import EvaluateConfig
from raytrain.data.loading.loader import to_batch
from raytrain.data.loading.read import Dataset
from raytrain.model import Model

ROWS = 8
"""Images of one forward pass."""


def losses(
    model: Model,
    dataset: Dataset,
    config: EvaluateConfig,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> list[float]:
    """Return each held-out image's error, averaged over `config.timesteps` timesteps;
    a collective when world_size > 1.

    Images come in the order of buckets and ids, at most `config.max_held_out` of them.
    """
    device = next(model.parameters()).device
    objective = model.objective.comparable()
    chunks = plan(dataset.counts("held_out"), config.max_held_out, world_size)
    found: list[Tensor] = []
    with torch.no_grad():
        for bucket, numbers in chunks:
            mine = numbers[rank::world_size]
            rows = dataset.rows(bucket, np.maximum(mine, 0), "held_out", columns=model.columns)
            batch = to_batch(rows, [0] * len(mine)).to(device)
            errors = torch.zeros(len(numbers))
            total = sum(
                model.losses(
                    batch, fixed_draws(model, batch, k, config.timesteps).to(device), objective
                )
                for k in range(config.timesteps)
            )
            assert isinstance(total, Tensor)
            errors[rank::world_size] = (total / config.timesteps).float().cpu()
            if world_size > 1:
                shared = errors.to(device)
                dist.all_reduce(shared)
                errors = shared.cpu()
            found.append(errors[torch.from_numpy(numbers >= 0)])
    return torch.cat(found).tolist() if found else []


def fixed_draws(model: Model, batch: Batch, number: int, count: int) -> Columns:
    """Return the draws of held-out timestep `number` of `count`:
    a function of the image and `number` alone.

    Timesteps are the middles of `count` equal parts of the whole schedule. The run's seed, noise
    offset and timestep range do not matter, so that runs can be compared.
    """
    named = replace(
        batch, ids=[f"held_out/{id_}" for id_ in batch.ids], occurrences=[number] * len(batch.ids)
    )
    draws = model.draw(named, model.objective.comparable())
    return Columns(
        draws, timestep=torch.full((len(batch.ids),), (number + 0.5) / count, dtype=torch.float64)
    )


def plan(counts: dict[str, int], limit: int, world_size: int) -> list[tuple[str, np.ndarray]]:
    """Return (bucket, row numbers) chunks of at most `limit` rows in all,
    padded with -1 to a multiple of `world_size`."""
    chunks = []
    for bucket, count in _shares(counts, limit).items():
        rows = np.arange(count)
        for start in range(0, len(rows), ROWS * world_size):
            chunk = rows[start : start + ROWS * world_size]
            padded = np.full(-(-len(chunk) // world_size) * world_size, -1)
            padded[: len(chunk)] = chunk
            chunks.append((bucket, padded))
    return chunks


def _shares(counts: dict[str, int], limit: int) -> dict[str, int]:
    """Return how many rows of each bucket are taken: all, or `limit` in proportion,
    by the largest remainder."""
    total = sum(counts.values())
    if total <= limit:
        return counts
    found = {bucket: count * limit // total for bucket, count in counts.items()}
    by_rest = sorted(counts, key=lambda bucket: -(counts[bucket] * limit % total))
    for bucket in by_rest[: limit - sum(found.values())]:
        found[bucket] += 1
    return found
