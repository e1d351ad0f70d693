"""Dynamic loss scaling for fp16, whose smallest gradients would vanish
(Micikevicius et al. 2018, arXiv:1710.03740)."""

from __future__ import annotations

from dataclasses import dataclass

PATIENCE = 2000
"""Finite steps in a row after which a larger scale is tried."""


@dataclass
class LossScale:
    """The factor on the loss, undone on its gradients before they are clipped."""

    value: float = 65536.0
    finite_steps: int = 0
    """Since it last changed."""

    def update(self, finite: bool) -> None:
        """Halve it after a step whose gradients were too large for fp16,
        double it after many that were not."""
        self.finite_steps = self.finite_steps + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self.finite_steps == PATIENCE:
            self.value, self.finite_steps = self.value * 2, 0
