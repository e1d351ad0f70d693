"""Optimizers and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from raytrain.config import TrainConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def build(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101): PyTorch's, an 8-bit form, or that for bf16 weights."""
    options = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.optimizer != "adamw":
        from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

        kind = PagedAdamW8bit if config.optimizer == "paged_adamw8bit" else AdamW8bit
        optimizer: torch.optim.Optimizer = kind(list(parameters), **options)
        return optimizer
    if config.weights == "bf16":
        from raytrain.train.low_precision import RoundedAdamW

        return RoundedAdamW(list(parameters), **options, rounding=config.rounding)  # type: ignore[arg-type]
    from torch.optim import AdamW

    return AdamW(list(parameters), fused=True, **options)  # type: ignore[arg-type]


def restore(optimizer: torch.optim.Optimizer, weight: nn.Parameter, key: str, value: Tensor) -> None:
    """Put a saved tensor of a weight's state back as the optimizer itself would keep it."""
    import torch

    quantized = type(optimizer).__module__.startswith("bitsandbytes")
    if key == "step":
        fused = optimizer.defaults.get("fused")
        kept = int(value) if quantized else value.to(weight.device if fused else "cpu", copy=True)
    elif value.shape != weight.shape:  # scales of an 8-bit state
        kept = value.to(weight.device, copy=True)
    else:
        # The fused kernel walks through weight and state side by side without a look at their strides: a state in another
        # order than a channels_last weight would be wrong in silence. A paged state must be in memory that can page.
        pages = getattr(optimizer, "get_state_buffer", None)
        kept = pages(weight, dtype=value.dtype) if pages else torch.empty_like(weight, dtype=value.dtype)
        kept.copy_(value)
    optimizer.state[weight][key] = kept


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
