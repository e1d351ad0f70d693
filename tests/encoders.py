"""A family's frozen VAE and text encoders on one device, as tests call them:
without columns and batches filled up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain import families
from raytrain.config import ModelConfig
from raytrain.families import Family


class Encoders:
    """Loads all of them at once."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        family: Family = families.load(model.family)
        self.family, self.model, self.device = family, model, device
        load = family.load
        self.vae = load(model, "vae", dtype).eval().requires_grad_(False).to(device)
        self.tokenizers = {
            name: load(model, name, dtype) for name in families.text_parts(family, "tokenizer")
        }
        self.text = {
            name: load(model, name, dtype).eval().requires_grad_(False).to(device)
            for name in families.text_parts(family, "text")
        }

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Map pixels (n, 3, H, W) in [-1, 1] to what is stored of them, float32."""
        return self.family.encode_image(self.vae, pixels.to(self.device, self.vae.dtype)).float()

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Map n captions to the family's text columns, (n, ...) float32."""
        tokens = self.family.tokenize(self.tokenizers, captions, self.model)
        on_device = {name: ids.to(self.device) for name, ids in tokens.items()}
        return self.family.encode_text(self.text, on_device, self.model)

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Tell for each caption whether its end is not encoded."""
        return self.family.too_long(self.tokenizers, captions, self.model)
