"""Random draws that belong to a row, not to a worker: pure functions of
(seed, stream, row, occurrence).

A counter-based generator (Philox) keyed by a hash gives the same numbers on any worker, in any
order, after any restart, so no random state is saved. A new consumer takes a new stream name and
changes no other's numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:  # torch only where a tensor is made: a command that counts steps needs none
    from torch import Tensor

    from raytrain.batch import Batch, Columns


@dataclass(frozen=True)
class Draw:
    """What one stream gives each row: an array of `shape`."""

    kind: Literal["normal", "uniform"]
    """`normal`: standard normal, float32. `uniform`: one number in [0,
    1), float64; its shape is ()."""
    shape: tuple[int, ...] = ()


def draw(specs: Mapping[str, Draw], seed: int, batch: Batch) -> Columns:
    """Return each stream's numbers for the rows of a batch, (n, *shape)."""
    import torch

    from raytrain.batch import Columns

    ids, occurrences = batch.ids, batch.occurrences
    return Columns({
        name: normal(seed, name, ids, occurrences, spec.shape)
        if spec.kind == "normal"
        else torch.from_numpy(uniform(seed, name, ids, occurrences))
        for name, spec in specs.items()
    })  # fmt: skip


def stream(seed: int, name: str, row: str = "", occurrence: int = 0) -> np.random.Generator:
    """Return the generator of one named stream of a row's n-th occurrence in training."""
    key = hashlib.blake2b(f"{seed}/{name}/{row}/{occurrence}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def normal(
    seed: int, name: str, rows: Sequence[str], occurrences: Sequence[int], shape: tuple[int, ...]
) -> Tensor:
    """Return standard normal draws (n, *shape) in float32, each row from its own stream."""
    import torch

    draws = np.empty((len(rows), *shape), dtype=np.float32)
    for out, row, occurrence in zip(draws, rows, occurrences, strict=True):
        stream(seed, name, row, occurrence).standard_normal(out=out, dtype=np.float32)
    return torch.from_numpy(draws)


def uniform(seed: int, name: str, rows: Sequence[str], occurrences: Sequence[int]) -> np.ndarray:
    """Return uniform draws in [0, 1), (n,) float64, each row from its own stream."""
    pairs = zip(rows, occurrences, strict=True)
    return np.array([stream(seed, name, row, occurrence).random() for row, occurrence in pairs])
