"""Per-sample diffusion losses and their weights."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the float32 mean squared error of each sample: (B, C, h, w) -> (B,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def masked_mean_squared_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of each sample over its mask (B, h, w) of weights in [0, 1];
    0 where all is masked out."""
    errors = (prediction.float() - target.float()).square().mean(1) * mask
    return errors.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1e-6)


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """Return the Min-SNR-gamma weight, (B,), of the error of what is predicted
    (Hang et al. 2023, arXiv:2303.09556).

    The error of x_0 weighs min(SNR, gamma). Of the noise that is over SNR, of v over SNR + 1, of a
    velocity over (sqrt(SNR) + 1)^2, since x_0 is off by s times the velocity's error and s = 1 /
    (sqrt(SNR) + 1).
    """
    clipped = torch.clamp(snr, max=gamma)
    if prediction == "epsilon":
        return clipped / snr
    return clipped / (snr + 1 if prediction == "v_prediction" else (snr.sqrt() + 1).square())
