"""sd15 with a hole in its VAE, and with a line in a file for every batch it encodes:
lines outlive a process killed -9."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from raytrain.config import ModelConfig
from raytrain.families import sd15
from raytrain.families.sd15 import *  # noqa: F403 - sd15 but for its encoders
from tests.data import nan_family

COUNTS = "RAYTRAIN_SOAK_COUNTS"
"""The environment variable that names the file; a line is a column and a number of arrays."""


def encode_image(vae: Any, pixels: Tensor) -> Tensor:
    """Encode images, and say how many."""
    stored = nan_family.encode_image(vae, pixels)
    _say(
        "latents", len(torch.unique(pixels.flatten(1), dim=0))
    )  # a batch is filled up with copies
    return stored


def tokenize(
    tokenizers: Mapping[str, Any], captions: Sequence[str], model: ModelConfig
) -> dict[str, Tensor]:
    """Tokenize captions, which are encoded next, and say how many."""
    _say(
        "text", len({caption for caption in captions if caption})
    )  # the empty caption is asked for its shapes
    return sd15.tokenize(tokenizers, captions, model)


def _say(column: str, number: int) -> None:
    with open(os.environ[COUNTS], "a") as file:
        file.write(f"{column} {number}\n")
