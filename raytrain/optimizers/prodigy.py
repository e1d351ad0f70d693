"""Prodigy (Mishchenko & Defazio 2024, arXiv:2306.06101): Adam that estimates its own learning
rate, by its authors' package.

`train.learning_rate` is a factor of the estimate, to be left at 1.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from pydantic import Field

from raytrain.optimizers import Facts, Groups
from raytrain.table import Table

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from raytrain.config import TrainConfig


class Options(Table):
    """`[train.optimizer_options]`."""

    d_coef: float = Field(1.0, gt=0)
    """Factor of the estimated rate: what to tune, 0.5 to 2."""
    d0: float = Field(1e-6, gt=0)
    """The first estimate."""
    growth_rate: float = Field(float("inf"), gt=1)
    """The estimate grows at most by this factor in a step."""
    beta3: float | None = Field(None, ge=0, lt=1)
    """Decay of the estimate's averages; default: the square root of the second of
    `train.betas`."""
    decouple: bool = True
    """Weight decay as in AdamW."""
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    """The learning rate of a warm-up does not enter the estimate: for `train.warmup` above 0."""
    slice_p: int = Field(1, ge=1)
    """Estimate from every so many-th number alone, which saves up to half of the state."""


FACTS = Facts(
    defaults={"learning_rate": 1.0, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 1e-2},
    bytes=16,
    group_rates=False,
)


def build(groups: Groups, arguments: dict[str, Any], config: TrainConfig) -> Optimizer:
    """Return the optimizer."""
    from prodigyopt import Prodigy

    with contextlib.redirect_stdout(io.StringIO()):  # it prints that weight decay is decoupled
        optimizer: Optimizer = Prodigy(groups, **arguments)
    return optimizer
