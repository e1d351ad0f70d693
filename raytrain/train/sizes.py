"""What a step of a run costs, as small values that need no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """What one row of a step costs."""

    flops: int
    """Floating point operations, forward, backward and what is recomputed."""
    activations: int
    """Bytes kept for the backward pass, in the precision of the run."""


@dataclass(frozen=True)
class Encoders:
    """Bytes of encoders on a worker's device."""

    weights: int = 0
    work: int = 0
    """Of the tensors of the largest batch, at their peak; encoders work one after the other, while
    a step computes."""

    @property
    def bytes(self) -> int:
        """All of them."""
        return self.weights + self.work
