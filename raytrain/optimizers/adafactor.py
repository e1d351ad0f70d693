"""Adafactor (Shazeer & Stern 2018, arXiv:1804.04235): a second moment for each row and column
alone, and no first; PyTorch's.

The learning rate is the most that a step moves, relative to the root mean square of a weight, and
falls with the step's inverse square root.
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

    beta2_decay: float = Field(-0.8, le=0)
    """Exponent of the step by which the second moment's average lengthens."""
    d: float = Field(1.0, ge=1)
    """Largest root mean square of an update; longer ones are scaled down."""


FACTS = Facts(
    defaults={"learning_rate": 1e-2, "weight_decay": 0.0},
    # 4 / rank of a LoRA, next to nothing of a large matrix, but 2.7 of a 3 x 3 convolution
    bytes=1.5,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from torch.optim import Adafactor

    return Adafactor(groups, **arguments)
