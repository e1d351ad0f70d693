"""Learning rate schedules."""

from __future__ import annotations

import math

from raytrain.config import TrainConfig


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
