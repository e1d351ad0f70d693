"""Forward processes: how an image becomes noise, what a model predicts of it,
and what that says of the image.

`Ddpm` is the discrete-time process of DDPM (Ho et al. 2020, arXiv:2006.11239), `Flow` the straight
path of flow matching (Lipman et al. 2023, arXiv:2210.02747; Esser et al. 2024, arXiv:2403.03206).
Shapes: n rows, latents (n, C, *S), times (n,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Process(Protocol):
    """What an objective needs of a forward process; all tensors are on one device."""

    PREDICTIONS: ClassVar[tuple[str, ...]]
    """What a model of this process may predict."""

    @property
    def prediction(self) -> str:
        """What the model predicts: one of `PREDICTIONS`."""

    def time(self, share: Tensor, shape: Sequence[int]) -> Tensor:
        """Map shares of the way to noise, [0, 1) float64, to times; `shape` is that of one row's
        latents (C, *S)."""

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the latents at a time."""

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return what the model should predict."""

    def clean(self, noisy: Tensor, predicted: Tensor, time: Tensor) -> Tensor:
        """Return the clean latents that a prediction stands for."""

    def snr(self, time: Tensor) -> Tensor:
        """Return the signal-to-noise ratio, (n,)."""

    def to(self, device: torch.device) -> Process:
        """Return the process on a device."""


@dataclass(frozen=True)
class Ddpm:
    """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise (DDPM eq. 4);
    times are int64 timesteps."""

    alphas_cumprod: Tensor
    """(T,) float32, decreasing."""
    prediction: str
    PREDICTIONS: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")

    def time(self, share: Tensor, shape: Sequence[int]) -> Tensor:
        """Return timesteps, each of the T with equal probability."""
        count = len(self.alphas_cumprod)
        return (share * count).floor().clamp(max=count - 1).long()

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return x_t."""
        signal, sigma = self._levels(time, clean)
        return signal * clean + sigma * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the noise, or v = sqrt(a) noise - sqrt(1 - a) x_0
        (Salimans & Ho 2022, arXiv:2202.00512)."""
        if self.prediction == "epsilon":
            return noise
        signal, sigma = self._levels(time, clean)
        return signal * noise - sigma * clean

    def clean(self, noisy: Tensor, predicted: Tensor, time: Tensor) -> Tensor:
        """Return x_0 of a predicted noise or v."""
        signal, sigma = self._levels(time, noisy)
        if self.prediction == "epsilon":
            return (noisy - sigma * predicted) / signal
        return signal * noisy - sigma * predicted

    def snr(self, time: Tensor) -> Tensor:
        """Return alpha_bar_t / (1 - alpha_bar_t)."""
        alpha_bar = self.alphas_cumprod[time]
        return alpha_bar / (1 - alpha_bar)

    def to(self, device: torch.device) -> Ddpm:
        """Return the process on a device."""
        return replace(self, alphas_cumprod=self.alphas_cumprod.to(device))

    def _levels(self, time: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = _spread(self.alphas_cumprod[time], like)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


@dataclass(frozen=True)
class Flow:
    """x_s = (1 - s) x_0 + s noise; times are the noise levels s in
    (0, 1], float32, and the model predicts noise - x_0."""

    shift: float = 1.0
    """Moves levels towards noise, as large images need: s' = shift s / (1 + (shift - 1) s)
    (arXiv:2403.03206, eq. 23)."""
    levels: int = 1000
    """Levels of the grid that samplers use."""
    prediction: str = "flow"
    PREDICTIONS: ClassVar[tuple[str, ...]] = ("flow",)

    def time(self, share: Tensor, shape: Sequence[int]) -> Tensor:
        """Return shifted levels of the grid 1/levels, 2/levels ...

        1, before the shift each with equal probability.
        """
        level = ((share * self.levels).floor().clamp(max=self.levels - 1) + 1) / self.levels
        return (self.shift * level / (1 + (self.shift - 1) * level)).float()

    def noised(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return x_s."""
        level = _spread(time, clean)
        return (1 - level) * clean + level * noise

    def target(self, clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the velocity noise - x_0."""
        return noise - clean

    def clean(self, noisy: Tensor, predicted: Tensor, time: Tensor) -> Tensor:
        """Return x_0 of a predicted velocity."""
        return noisy - _spread(time, noisy) * predicted

    def snr(self, time: Tensor) -> Tensor:
        """Return ((1 - s) / s)^2."""
        return ((1 - time) / time).square()

    def to(self, device: torch.device) -> Flow:
        """Return the process: it holds no tensor."""
        return self


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Give values (n,) as many axes as `like` has."""
    return values.view(-1, *[1] * (like.dim() - 1))
