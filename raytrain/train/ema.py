"""Exponential moving average of the trainable weights (Polyak averaging), with a warm start."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Ema:
    """Shadow copy of named weights; decay at update n is min(decay, (1 + n) / (10 + n))."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float, updates: int = 0) -> None:
        self.decay, self.updates = decay, updates
        self.shadow = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """Move the average towards the weights by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        shadow = list(self.shadow.values())
        torch._foreach_lerp_(
            shadow, [weights[name].detach().float() for name in self.shadow], 1 - decay
        )
