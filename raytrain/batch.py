"""What one worker computes in one go: rows of one bucket and their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from operator import itemgetter

import torch
from torch import Tensor


class Columns(dict[str, Tensor]):
    """Tensors by name, a row each along their first axis."""

    def split(self, size: int) -> list[Columns]:
        """Cut into pieces of at most `size` rows."""
        rows = max(len(column) for column in self.values())
        return [self.map(itemgetter(slice(at, at + size))) for at in range(0, rows, size)]

    def pin(self) -> Columns:
        """Copy to pinned memory, whence `to` copies without waiting;
        PyTorch reuses it when those copies are done."""
        return self.map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Columns:
        """Copy from the CPU to a device, without waiting for those in pinned memory."""
        return self.map(lambda column: column.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> Columns:
        """Return the columns after a change of each."""
        return Columns({name: change(column) for name, column in self.items()})


@dataclass(frozen=True)
class Batch:
    """n rows of one bucket, padding included."""

    ids: list[str]
    occurrences: list[int]
    """How often each row was trained on before."""
    weights: Tensor
    """(n,) float32: factor on each row's loss; 0 for padding."""
    columns: Columns
    """Those that training reads, of `raytrain.data.columns`: `latents` (n, 2C, h, w) float16, what
    the VAE gave; text columns (n, ...) float16; ids (n, ...) int64 named after the tokenizers'
    folders; `mask` (n, h, w) uint8, 255 where the loss counts in full; `control` (n, 3, H, W)
    uint8. And `sizes` (n, 6) float32: original height, width, crop top, left, bucket height,
    width."""

    def split(self, size: int) -> list[Batch]:
        """Cut into micro-batches of at most `size` rows."""
        cuts = [slice(at, at + size) for at in range(0, len(self.ids), size)]
        parts = zip(cuts, self.columns.split(size), strict=True)
        return [
            Batch(self.ids[cut], self.occurrences[cut], self.weights[cut], part)
            for cut, part in parts
        ]

    def pin(self) -> Batch:
        """Copy the tensors to pinned memory."""
        return replace(self, weights=self.weights.pin_memory(), columns=self.columns.pin())

    def to(self, device: torch.device) -> Batch:
        """Copy the tensors from the CPU to a device, without waiting for those in pinned
        memory."""
        return replace(
            self,
            weights=self.weights.to(device, non_blocking=True),
            columns=self.columns.to(device),
        )
