"""AdamW whose state has 8 bits (Dettmers et al. 2022, arXiv:2110.02861), by bitsandbytes;
small weights' state keeps 32."""

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

    min_8bit_size: int = Field(4096, ge=1)
    """Weights of fewer numbers keep a state of 32 bits."""


FACTS = Facts(
    defaults={"learning_rate": 1e-4, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 1e-2},
    bytes=2,
    contiguous=True,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from bitsandbytes.optim import AdamW8bit

    optimizer: Optimizer = AdamW8bit(groups, **arguments)
    return optimizer
