"""A family without a model, reached by its dotted path `tests.bench.no_model`: preparation at scale without an encoder.

Moments are mean colours of 8x8 squares, text a few numbers out of the caption's hash; so a million rows are encoded in minutes,
and what is measured is the platform. It can only encode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from raytrain.config import ModelConfig

COMPONENTS = ("vae", "text_encoder")
DENOISER = "unet"
TEXT_COMPONENTS = ("text_encoder",)
TEXT_COLUMNS = ("text",)
LORA_TARGETS = ()
KOHYA_BASE = ""
FACTOR = 8


class Encoders:
    """Both encoders, of nothing but arithmetic."""

    def encode_pictures(self, pixels: Tensor) -> Tensor:
        """Map pixels (B, 3, H, W) to moments (B, 8, H/8, W/8): mean colour, mean grey, and log-variances of zero."""
        colours = torch.nn.functional.avg_pool2d(pixels, FACTOR)
        mean = torch.cat([colours, colours.mean(1, keepdim=True)], 1)
        return torch.cat([mean, torch.zeros_like(mean)], 1)

    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Map B captions to `text` (B, 4, 8)."""
        digests = b"".join(hashlib.sha256(caption.encode()).digest() for caption in captions)
        levels = np.frombuffer(digests, np.uint8).astype(np.float32).reshape(-1, 4, 8)
        return {"text": torch.from_numpy(levels / 255)}

    def cut(self, captions: Sequence[str]) -> list[bool]:
        """Return that no caption is too long."""
        return [False] * len(captions)


def load_encoders(model: ModelConfig, device: torch.device, dtype: torch.dtype) -> Encoders:
    """Return the encoders; there is nothing to load."""
    return Encoders()


def tiny(folder: str, seed: int = 0) -> None:
    """Write a model folder: configurations, and weights that are only there to have a hash."""
    channels = {"latent_channels": 4, "block_out_channels": [1] * 4}  # four levels: 8 pixels a latent cell
    for name, config in (("vae", channels), ("text_encoder", {})):
        root = Path(folder) / name
        root.mkdir(parents=True)
        (root / "config.json").write_text(json.dumps(config))
        (root / "weights.txt").write_text(str(seed))
