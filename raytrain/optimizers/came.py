"""CAME (Luo et al. 2023, arXiv:2307.02047): Adafactor with a momentum that counts the more,
the surer the update."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from raytrain.optimizers import Facts, Groups
from raytrain.table import Table

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raytrain.config import TrainConfig

Decay = Annotated[float, Field(ge=0, lt=1)]


class Options(Table):
    """`[train.optimizer_options]`."""

    betas: Annotated[tuple[Decay, Decay, Decay], Field(strict=False)] = (0.9, 0.999, 0.9999)
    """Decay of the momentum, of the second moment and of what updates differ from the momentum."""
    clip_threshold: float = Field(1.0, gt=0)
    """Largest root mean square of an update; longer ones are scaled down."""
    eps1: float = Field(1e-30, ge=0)
    eps2: float = Field(1e-16, ge=0)


FACTS = Facts(
    defaults={"learning_rate": 1e-4, "weight_decay": 1e-2},
    # 4 of the momentum; next to nothing more of a large matrix, but 5.3 more of a 3 x 3
    # convolution
    bytes=7,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from pytorch_optimizer import CAME

    return CAME(groups, **arguments)
