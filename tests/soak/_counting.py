"""sd15 with a hole in its VAE, and with a line in a file for every batch it encodes: lines outlive a process killed -9."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain.config import ModelConfig
from raytrain.families.sd15 import *  # noqa: F403 - a family is a module; this one is sd15 but for its encoders
from tests.data import nan_family

COUNTS = "RAYTRAIN_SOAK_COUNTS"
"""The environment variable that names the file; a line is a store and a number of arrays."""


class Encoders(nan_family.Encoders):
    """Encoders that say how much they did."""

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        moments = super().encode_pictures(pixels)
        _say("moments", len(torch.unique(pixels.flatten(1), dim=0)))  # a batch is filled up with copies
        return moments

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        columns = super().encode_captions(captions)
        _say("text", len({caption for caption in captions if caption}))  # the empty caption is asked for its shapes
        return columns


def load_encoders(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
    return Encoders(model, device, dtype)


def _say(store: str, number: int) -> None:
    with open(os.environ[COUNTS], "a") as file:
        file.write(f"{store} {number}\n")
