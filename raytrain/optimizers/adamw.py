"""AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): PyTorch's fused kernel,
or for bf16 weights one that keeps small steps."""

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
    defaults={"learning_rate": 1e-4, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 1e-2},
    bytes=8,
    shards=("exp_avg", "exp_avg_sq"),
    roundings=("stochastic", "compensated", "nearest"),
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    if config.param_dtype == "bf16":
        from raytrain.optimizers._low_precision import RoundedAdamW

        return RoundedAdamW(groups, **arguments, rounding=config.rounding)
    from torch.optim import AdamW

    return AdamW(groups, fused=True, **arguments)
