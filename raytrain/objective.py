"""The loss of a batch: what is drawn for each row, the forward process,
the weighted error of a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from raytrain import families
from raytrain.batch import Batch, Columns
from raytrain.config import Config, ModelConfig, ObjectiveConfig
from raytrain.diffusion import loss, noise
from raytrain.diffusion.process import Process
from raytrain.errors import UserError
from raytrain.families import Family
from raytrain.rng import Draw


@dataclass(frozen=True)
class Noised:
    """Rows on their way to noise, and what a model should say of them."""

    noisy: Tensor
    """(n, C, *S)."""
    time: Tensor
    """(n,) in the process's own unit."""
    target: Tensor
    """(n, C, *S)."""


@dataclass(frozen=True)
class Objective:
    """The loss of one run: pure in (batch, draws, prediction)."""

    family: Family
    process: Process
    model: ModelConfig
    config: ObjectiveConfig
    seed: int
    masked: bool = False
    """Whether stored masks weigh the loss."""

    @classmethod
    def of(cls, config: Config, device: torch.device) -> Objective:
        """Return the objective a config asks for; UserError where the model cannot predict what it
        asks for."""
        family = families.load(config.model.family)
        families.caption_tokens(family, config.model)
        families.check_size_ids(family, config.model)
        process: Any = family.process(config.model).to(device)
        asked = config.objective.prediction
        if asked not in ("auto", *process.PREDICTIONS):
            raise UserError(
                f"objective.prediction = {asked!r} is nothing a {config.model.family} model "
                'predicts; it would learn another model\'s target. Use "auto" or one of '
                f"{', '.join(process.PREDICTIONS)}."
            )
        if asked != "auto":
            process = replace(process, prediction=asked)
        return cls(
            family, process, config.model, config.objective, config.seed, config.data.masks.weigh
        )

    def comparable(self) -> Objective:
        """Return the objective by which runs are compared: no weights, offsets,
        ranges or seed of the run's own."""
        return replace(self, config=ObjectiveConfig(), seed=0)

    def draws(self, batch: Batch) -> dict[str, Draw]:
        """Return what each row needs: `timestep` (), `noise` and `latent` (C, *S), `noise_offset`
        (C,)."""
        stored = batch.columns["latents"].shape[1:]
        posterior = self.family.latent(self.model).posterior
        shape = (stored[0] // 2 if posterior else stored[0], *stored[1:])
        specs = {"timestep": Draw("uniform"), "noise": Draw("normal", shape)}
        if posterior:
            specs["latent"] = Draw("normal", shape)
        if self.config.noise_offset:
            specs["noise_offset"] = Draw("normal", shape[:1])
        return specs

    def noised(self, batch: Batch, draws: Columns) -> Noised:
        """Return the rows with noise; batch and draws are on the process's device."""
        clean = self.family.latents(batch.columns["latents"], draws.get("latent"), self.model)
        added = draws["noise"]
        if "noise_offset" in draws:
            added = noise.offset_noise(added, draws["noise_offset"], self.config.noise_offset)
        share = noise.interval(draws["timestep"], *self.config.timestep_range)
        time = self.process.time(share, clean.shape[1:])
        target = self.process.target(clean, added, time)
        return Noised(self.process.noised(clean, added, time), time, target)

    def predict(
        self, denoiser: nn.Module, noised: Noised, condition: Mapping[str, Tensor], **extra: Any
    ) -> Tensor:
        """Run the family's denoiser, (n, C, *S); `extra` is what a control branch adds to the
        call."""
        return self.family.predict(
            denoiser, noised.noisy, noised.time, condition, self.model, **extra
        )

    def losses(self, predicted: Tensor, noised: Noised, batch: Batch) -> Tensor:
        """Return each row's weighted error, (n,) float32; over the row's mask where the batch has
        masks."""
        masks = batch.columns.get("mask")
        errors = (
            loss.mean_squared_error(predicted, noised.target)
            if masks is None
            else loss.masked_mean_squared_error(predicted, noised.target, masks.float() / 255)
        )
        if self.config.min_snr_gamma is None:
            return errors
        snr = self.process.snr(noised.time)
        return errors * loss.min_snr_weight(
            snr, self.config.min_snr_gamma, self.process.prediction
        )
