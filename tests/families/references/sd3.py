"""Stable Diffusion 3 as diffusers' train_dreambooth_lora_sd3.py trains it,
with `--precondition_outputs 0`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from raytrain.batch import Batch, Columns
from tests.families import references

TARGETS = [
    "attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out",
    "attn.to_k", "attn.to_out.0", "attn.to_q", "attn.to_v",
]  # fmt: skip
OBJECTIVES: list[dict[str, Any]] = [{}, {"timestep_range": [0.2, 0.8]}]


def loss(pipe: Any, batch: Batch, draws: Columns, config: Any) -> Tensor:
    scheduler, vae = pipe.scheduler, pipe.vae.config
    latents = (references.sampled(batch, draws) - vae.shift_factor) * vae.scaling_factor
    count = scheduler.config.num_train_timesteps
    # the scheduler's grid begins with noise
    indices = count - 1 - (references.shares(draws, config) * count).long()
    timesteps = scheduler.timesteps[indices]
    sigmas = scheduler.sigmas[indices].view(-1, 1, 1, 1)
    noisy = (1.0 - sigmas) * latents + sigmas * draws["noise"]
    predicted = pipe.transformer(
        hidden_states=noisy,
        timestep=timesteps,
        encoder_hidden_states=batch.columns["text"].float(),
        pooled_projections=batch.columns["pooled"].float(),
        return_dict=False,
    )[0]
    target = draws["noise"] - latents
    return (predicted - target).square().reshape(len(target), -1).mean(1).mean()
