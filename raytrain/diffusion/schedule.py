"""The noise schedule of a discrete-time diffusion model and its forward process (DDPM, Ho et al. 2020, arXiv:2006.11239)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative products of alpha, the model's prediction type and its latents' scale."""

    alphas_cumprod: Tensor
    """(T,) float32, decreasing."""
    prediction: str
    """`epsilon` or `v_prediction`."""
    scale: float
    """Latents are multiplied by it (and shifted) before noise is added."""
    shift: float = 0.0

    @property
    def num_timesteps(self) -> int:
        """Number T of discrete timesteps."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device) -> NoiseSchedule:
        """Return the schedule on a device."""
        return NoiseSchedule(self.alphas_cumprod.to(device), self.prediction, self.scale, self.shift)


def signal_noise(schedule: NoiseSchedule, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each (B, 1, 1, 1)."""
    alpha_bar = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def add_noise(schedule: NoiseSchedule, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Sample x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (DDPM eq. 4); all (B, C, h, w)."""
    signal, sigma = signal_noise(schedule, timesteps)
    return signal * latents + sigma * noise


def target(schedule: NoiseSchedule, latents: Tensor, noise: Tensor, timesteps: Tensor, prediction: str) -> Tensor:
    """Return the target: the noise, or v = sqrt(a) noise - sqrt(1-a) x_0 (Salimans & Ho 2022, arXiv:2202.00512)."""
    if prediction == "epsilon":
        return noise
    signal, sigma = signal_noise(schedule, timesteps)
    return signal * noise - sigma * latents


def signal_to_noise(schedule: NoiseSchedule, timesteps: Tensor) -> Tensor:
    """Return SNR(t) = alpha_bar_t / (1 - alpha_bar_t), (B,)."""
    alpha_bar = schedule.alphas_cumprod[timesteps]
    return alpha_bar / (1 - alpha_bar)
