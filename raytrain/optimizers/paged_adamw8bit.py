"""The 8-bit AdamW whose state moves to the host while the memory of a GPU is full
(Dettmers et al. 2023, arXiv:2305.14314)."""

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
    paged=True,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from bitsandbytes.optim import PagedAdamW8bit

    optimizer: Optimizer = PagedAdamW8bit(groups, **arguments)
    return optimizer
