"""Optimizers and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raytrain.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): PyTorch's, bitsandbytes' 8-bit form or that for bf16 weights."""
    options = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        optimizer: torch.optim.Optimizer = AdamW8bit(list(parameters), **options)
        return optimizer
    if config.weights == "bf16":
        from raytrain.train.low_precision import RoundedAdamW

        return RoundedAdamW(list(parameters), **options, rounding=config.rounding)  # type: ignore[arg-type]
    from torch.optim import AdamW

    return AdamW(list(parameters), **options)  # type: ignore[arg-type]


def learning_rate(step: int, config: TrainConfig, total_steps: int) -> float:
    """Return the learning rate of a step (0-based): linear warm-up, then constant, linear to 0 or half a cosine to 0."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, total_steps - config.warmup)
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate
