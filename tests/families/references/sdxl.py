"""Stable Diffusion XL as diffusers' train_text_to_image_lora_sdxl.py trains it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from raytrain.batch import Batch, Columns
from tests.families.references import _ddpm
from tests.families.references._ddpm import OBJECTIVES, TARGETS

__all__ = ["OBJECTIVES", "TARGETS", "loss"]


def loss(pipe: Any, batch: Batch, draws: Columns, config: Any) -> Tensor:
    added = {"text_embeds": batch.columns["pooled"].float(), "time_ids": batch.columns["sizes"]}
    return _ddpm.loss(pipe, batch, draws, config, added_cond_kwargs=added)
