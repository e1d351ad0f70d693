"""The step of diffusers' train_text_to_image_lora.py."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from raytrain.batch import Batch, Columns
from tests.families import references

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
OBJECTIVES: list[dict[str, Any]] = [
    {},
    {"prediction": "v_prediction", "min_snr_gamma": 5.0},
    {"min_snr_gamma": 5.0, "timestep_range": [0.2, 0.8]},
]


def loss(pipe: Any, batch: Batch, draws: Columns, config: Any, **added: Any) -> Tensor:
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    if config.objective.prediction != "auto":
        scheduler.register_to_config(prediction_type=config.objective.prediction)
    latents = references.sampled(batch, draws) * pipe.vae.config.scaling_factor
    timesteps = (references.shares(draws, config) * scheduler.config.num_train_timesteps).long()
    noisy = scheduler.add_noise(latents, draws["noise"], timesteps)
    text = batch.columns["text"].float()
    predicted = pipe.unet(noisy, timesteps, encoder_hidden_states=text, **added).sample
    v_prediction = scheduler.config.prediction_type == "v_prediction"
    target = (
        scheduler.get_velocity(latents, draws["noise"], timesteps)
        if v_prediction
        else draws["noise"]
    )
    errors = torch.nn.functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    gamma = config.objective.min_snr_gamma
    if gamma is not None:
        alpha_bar = scheduler.alphas_cumprod[timesteps]
        snr = alpha_bar / (1 - alpha_bar)
        weight = torch.stack([snr, torch.full_like(snr, gamma)], dim=1).min(dim=1)[0]
        errors = errors * weight / (snr + 1 if v_prediction else snr)
    return errors.mean()
