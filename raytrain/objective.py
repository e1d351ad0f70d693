"""The loss of a batch: draws that belong to each sample, the forward process, the denoiser, the weighted error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor, nn

from raytrain.config import ObjectiveConfig
from raytrain.data.loader import Batch
from raytrain.diffusion import loss, noise
from raytrain.diffusion.schedule import NoiseSchedule, add_noise, signal_to_noise, target
from raytrain.families import Family


@dataclass(frozen=True)
class Draws:
    """Every random number a batch needs."""

    timesteps: Tensor
    """(n,) int64."""
    noise: Tensor
    """(n, C, h, w) noise offset included."""
    latent: Tensor
    """(n, C, h, w) draws that sample latents from the stored moments."""

    def split(self, size: int) -> list[Draws]:
        """Cut into the draws of micro-batches of at most `size` rows."""
        parts = [slice(start, start + size) for start in range(0, len(self.timesteps), size)]
        return [self._map(itemgetter(part)) for part in parts]

    def pin(self) -> Draws:
        """Copy to pinned memory, whence `to` copies without waiting."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Draws:
        """Copy from the CPU to a device, without waiting when pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Draws:
        return Draws(change(self.timesteps), change(self.noise), change(self.latent))


@dataclass(frozen=True)
class Objective:
    """The loss of one run: pure in (batch, draws)."""

    family: Family
    schedule: NoiseSchedule
    config: ObjectiveConfig
    seed: int

    @property
    def prediction(self) -> str:
        """`epsilon` or `v_prediction`: the config's, else the model's own."""
        return self.schedule.prediction if self.config.prediction == "auto" else self.config.prediction

    def draw(self, batch: Batch) -> Draws:
        """Draw timesteps and noise of every sample from its own streams."""
        shape = (batch.moments.shape[1] // 2, *batch.moments.shape[2:])
        ids, visits = batch.ids, batch.visits
        shares = noise.uniform(self.seed, "timestep", ids, visits)
        sample = noise.normal(self.seed, "noise", ids, visits, shape)
        if self.config.noise_offset:
            offsets = noise.normal(self.seed, "noise_offset", ids, visits, shape[:1])
            sample = noise.offset_noise(sample, offsets, self.config.noise_offset)
        return Draws(
            noise.timesteps(shares, self.config.timestep_range, self.schedule.num_timesteps),
            sample,
            noise.normal(self.seed, "latent", ids, visits, shape),
        )

    def losses(self, denoiser: nn.Module, batch: Batch, draws: Draws) -> Tensor:
        """Return each sample's weighted loss, (n,) float32; batch and draws on the schedule's device."""
        errors = self.errors(denoiser, batch, draws)
        if self.config.min_snr_gamma is None:
            return errors
        snr = signal_to_noise(self.schedule, draws.timesteps)
        return errors * loss.min_snr_weight(snr, self.config.min_snr_gamma, self.prediction)

    def errors(self, denoiser: nn.Module, batch: Batch, draws: Draws) -> Tensor:
        """Return each sample's plain squared error, (n,) float32."""
        latents = noise.sample_latents(batch.moments, draws.latent, self.schedule)
        noisy = add_noise(self.schedule, latents, draws.noise, draws.timesteps)
        wanted = target(self.schedule, latents, draws.noise, draws.timesteps, self.prediction)
        condition = self.family.condition({name: column.float() for name, column in batch.columns.items()})
        predicted = self.family.predict(denoiser, noisy, draws.timesteps, condition)
        if batch.masks is None:
            return loss.mean_squared_error(predicted, wanted)
        return loss.masked_mean_squared_error(predicted, wanted, batch.masks.float() / 255)
