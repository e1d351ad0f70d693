"""Schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682):
averages its weights instead of lowering the learning rate.

Checkpoints, samples and held-out losses are of the average; training continues from the weights
next to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from raytrain.optimizers import Facts, Groups
from raytrain.table import Table

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raytrain.config import TrainConfig


class Options(Table):
    """`[train.optimizer_options]`."""

    r: float = Field(0.0, ge=0)
    """The average weighs step t by t^r."""
    weight_lr_power: float = Field(2.0, ge=0)
    """And by its learning rate to this power, so that a warm-up counts for little."""


FACTS = Facts(
    defaults={"learning_rate": 1e-3, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 1e-2},
    bytes=12,  # two states, and a copy of the weights while the average is in their place
    averages=True,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from pytorch_optimizer import ScheduleFreeAdamW

    return ScheduleFreeAdamW(groups, **arguments)
