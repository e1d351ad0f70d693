"""A family without a model, reached by its dotted path `tests.bench.no_model`:
preparation at scale without an encoder.

Moments are mean colors of 8x8 squares, text a few numbers out of the caption's hash; so a million
rows are encoded in minutes, and what is measured is the platform. It can only encode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raytrain.config import ModelConfig
from raytrain.families import Latent

PARTS = {"vae": "vae", "tokenizer": "tokenizer", "text_encoder": "text"}
CONDITION = ("text",)
CAPTION_TOKENS = {75: 75}
FACTOR = 8


class Part(torch.nn.Module):
    """Stands where a model would be."""

    dtype = torch.float32


def load(model: ModelConfig, part: str, dtype: torch.dtype) -> Part:
    """Return a part; there is nothing to load."""
    return Part()


def latent(model: ModelConfig) -> Latent:
    """Return the shape of latents."""
    return Latent(4, FACTOR, FACTOR)


def encode_image(vae: Part, pixels: Tensor) -> Tensor:
    """Map pixels (n, 3, H, W) to (n, 8, H/8, W/8): mean color, mean gray,
    and log-variances of zero."""
    colors = torch.nn.functional.avg_pool2d(pixels, FACTOR)
    mean = torch.cat([colors, colors.mean(1, keepdim=True)], 1)
    return torch.cat([mean, torch.zeros_like(mean)], 1)


def tokenize(
    tokenizers: Mapping[str, Part], captions: Sequence[str], model: ModelConfig
) -> dict[str, Tensor]:
    """Map n captions to `tokenizer` (n, 32), the bytes of their hashes."""
    digests = b"".join(hashlib.sha256(caption.encode()).digest() for caption in captions)
    return {"tokenizer": torch.from_numpy(np.frombuffer(digests, np.uint8).reshape(-1, 32).copy())}


def too_long(
    tokenizers: Mapping[str, Part], captions: Sequence[str], model: ModelConfig
) -> list[bool]:
    """Return that no caption is too long."""
    return [False] * len(captions)


def encode_text(
    encoders: Mapping[str, Part], tokens: Mapping[str, Tensor], model: ModelConfig
) -> dict[str, Tensor]:
    """Map n captions' hashes to `text` (n, 4, 8)."""
    return {"text": tokens["tokenizer"].reshape(-1, 4, 8).float() / 255}


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder: configurations, and weights that are only there to have a hash."""
    channels = {
        "latent_channels": 4,
        "block_out_channels": [1] * 4,
    }  # four levels: 8 pixels a latent cell
    for name, config in (
        ("vae", channels),
        ("tokenizer", {}),
        ("text_encoder", {}),
        ("scheduler", {}),
    ):
        root = Path(folder) / name
        root.mkdir(parents=True)
        (root / "config.json").write_text(json.dumps(config))
        (root / "weights.txt").write_text(str(seed))
