"""What uniform and normal draws become: shares of the way to noise, offset noise, latents.

Pure functions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def interval(shares: Tensor, low: float, high: float) -> Tensor:
    """Map uniform shares in [0, 1), (n,) float64, to uniform shares in [low, high)."""
    return shares if (low, high) == (0.0, 1.0) else low + shares * (high - low)


def offset_noise(noise: Tensor, offsets: Tensor, strength: float) -> Tensor:
    """Add a constant a row and channel to noise (n, C, *S): noise offset, offsets (n, C)
    standard normal."""
    return noise + strength * offsets.view(*offsets.shape, *[1] * (noise.dim() - 2))


def sample_posterior(stored: Tensor, draws: Tensor) -> Tensor:
    """Sample latents (n, C, *S) from a VAE's mean and log-variance (n, 2C, *S)
    with standard normal draws (n, C, *S).

    The log-variance is clamped to [-30, 20] as the VAE itself does.
    """
    mean, log_variance = stored.float().chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * draws
