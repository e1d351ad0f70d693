"""sd15, whose VAE answers NaN for an image all of one color (magenta),
as a half-precision VAE does for some images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raytrain.families import sd15
from raytrain.families.sd15 import *  # noqa: F403 - sd15 but for its encoders


def encode_image(vae: Any, pixels: Tensor) -> Tensor:
    """Encode images, with one hole in it."""
    stored = sd15.encode_image(vae, pixels)
    color = torch.tensor([1.0, -1.0, 1.0], device=pixels.device)[None, :, None, None]
    stored[((pixels.float() - color).abs() < 0.02).all(3).all(2).all(1)] = float("nan")
    return stored
