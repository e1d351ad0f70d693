"""Learning rate schedules."""

from __future__ import annotations

import math

from raytrain.config import TrainConfig
from raytrain.config.period import steps_of


def learning_rate(step: int, config: TrainConfig, total_steps: int) -> float:
    """Return the learning rate of a step (0-based): linear warm-up,
    then by `train.lr_schedule`.

    `cosine_restarts` falls along half a cosine several times (Loshchilov & Hutter 2017,
    arXiv:1608.03983).
    """
    warmup = steps_of(config.warmup, total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.lr_schedule == "linear":
        return config.learning_rate * (1 - progress)
    if config.lr_schedule == "polynomial":
        return float(config.learning_rate * (1 - progress) ** (config.lr_schedule_power or 2))
    if config.lr_schedule == "cosine_restarts":
        progress = progress * (config.lr_schedule_cycles or 2) % 1
    if config.lr_schedule in ("cosine", "cosine_restarts"):
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate
