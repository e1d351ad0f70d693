"""Lion (Chen et al. 2023, arXiv:2302.06675): the sign of a momentum; by pytorch-optimizer.

It wants about a third of AdamW's learning rate, and three times its weight decay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raytrain.optimizers import Facts, Groups
from raytrain.table import Table

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raytrain.config import TrainConfig


class Options(Table):
    """None in addition to the keys of [train]."""


FACTS = Facts(
    defaults={"learning_rate": 3e-5, "betas": (0.9, 0.99), "weight_decay": 3e-2},
    bytes=4,
    shards=("exp_avg",),
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from pytorch_optimizer import Lion

    return Lion(groups, **arguments)
