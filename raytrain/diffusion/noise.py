"""Random draws that belong to a sample, not to a worker: pure functions of (seed, stream, row, visit).

A counter-based generator (Philox) keyed by a hash gives the same numbers on any worker, in any order, after any restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raytrain.diffusion.schedule import NoiseSchedule


def stream(seed: int, name: str, row: str = "", visit: int = 0) -> np.random.Generator:
    """Return the generator of one named stream of one row's visit (its n-th use in training)."""
    key = hashlib.blake2b(f"{seed}/{name}/{row}/{visit}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def normal(seed: int, name: str, rows: Sequence[str], visits: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal draws (B, *shape) in float32, each row from its own stream."""
    draws = np.empty((len(rows), *shape), dtype=np.float32)
    for out, row, visit in zip(draws, rows, visits, strict=True):
        stream(seed, name, row, visit).standard_normal(out=out, dtype=np.float32)
    return torch.from_numpy(draws)


def uniform(seed: int, name: str, rows: Sequence[str], visits: Sequence[int]) -> np.ndarray:
    """Return uniform draws in [0, 1), (B,) float64, each row from its own stream."""
    return np.array([stream(seed, name, row, visit).random() for row, visit in zip(rows, visits, strict=True)])


def timesteps(shares: np.ndarray, interval: tuple[float, float], num_timesteps: int) -> Tensor:
    """Map uniform shares (B,) to integer timesteps of `interval` (a part of [0, 1]) of the schedule, (B,) int64."""
    low, high = round(interval[0] * num_timesteps), round(interval[1] * num_timesteps)
    low = min(low, num_timesteps - 1)
    return torch.from_numpy(low + np.floor(shares * max(high - low, 1)).astype(np.int64))


def offset_noise(noise: Tensor, offsets: Tensor, strength: float) -> Tensor:
    """Add a constant per sample and channel to noise (B, C, h, w): noise offset, offsets (B, C) standard normal."""
    return noise + strength * offsets[:, :, None, None]


def sample_latents(moments: Tensor, draws: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Sample scaled latents (B, C, h, w) from VAE moments (B, 2C, h, w) with standard normal draws (B, C, h, w).

    The log-variance is clamped to [-30, 20] as the VAE itself does.
    """
    mean, log_variance = moments.float().chunk(2, dim=1)
    latents = mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * draws
    return (latents - schedule.shift) * schedule.scale
