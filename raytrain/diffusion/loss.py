"""Per-sample diffusion losses and their weights."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the float32 mean squared error of each sample: (B, C, h, w) -> (B,)."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def masked_mean_squared_error(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error of each sample over its mask (B, h, w) of weights in [0, 1]; 0 where all is masked out."""
    errors = (prediction.float() - target.float()).square().mean(1) * mask
    return errors.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1e-6)


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """Return the Min-SNR-gamma weight, (B,): min(SNR, gamma)/SNR, over SNR + 1 for v (Hang et al. 2023, arXiv:2303.09556)."""
    clipped = torch.clamp(snr, max=gamma)
    return clipped / (snr + 1) if prediction == "v_prediction" else clipped / snr
