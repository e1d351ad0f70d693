"""Captions as the family's frozen text encoders read them: the columns it conditions on,
float16."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raytrain.config import Config
from raytrain.data.columns import _captions
from raytrain.data.store.schema import Array

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from raytrain.families import Family

OF, MAKER = "caption", "text encoder"


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return the hash of the tokenizers' and encoders' files and their length, who calls them,
    how and with what."""
    own = {MAKER: _captions.facts(config, family, "tokenizer", "text"), **_captions.libraries()}
    return {**own, "family": config.model.family, "precision": config.data.encode.precision}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load the tokenizers and the text encoders."""
    from raytrain import families

    parts = {
        name: family.load(config.model, name, dtype)
        for name in families.text_parts(family, "text")
    }
    frozen = {name: part.eval().requires_grad_(False).to(device) for name, part in parts.items()}
    return Encoder(config, family, _captions.tokenizers(config, family, dtype), frozen, device)


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return the columns of `family.CONDITION`, found without weights."""
    import torch

    parts = on_meta(config, family, torch.float32)
    with torch.device("meta"):
        found = family.encode_text(parts, ids_on_meta(config, family, 1), config.model)
    return {
        name: Array(dtype="float16", shape=tuple(column.shape[1:]))
        for name, column in found.items()
    }


def on_meta(config: Config, family: Family, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return the text encoders without weights."""
    import torch

    from raytrain import families, pretrained

    with torch.device("meta"):
        return {
            name: pretrained.skeleton(config.model, name).eval().requires_grad_(False).to(dtype)
            for name in families.text_parts(family, "text")
        }


def ids_on_meta(config: Config, family: Family, captions: int) -> dict[str, torch.Tensor]:
    """Return the token ids of so many captions, by tokenizer, without contents."""
    import torch

    known = _captions.tokenizers(config, family, torch.float32)
    ids = family.tokenize(known, [""] * captions, config.model)
    return {name: each.to("meta") for name, each in ids.items()}


class Encoder:
    """Text encoders on a device."""

    def __init__(
        self,
        config: Config,
        family: Family,
        tokenizers: Mapping[str, Any],
        parts: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        """Take the frozen parts by the names of their folders."""
        self.model, self.family, self.tokenizers = config.model, family, tokenizers
        self.parts, self.device = parts, device

    def encode(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """Map n captions to the columns of `family.CONDITION`, (n, ...) float16."""
        return self.encode_ids(self.family.tokenize(self.tokenizers, captions, self.model))

    def encode_ids(self, ids: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        """Map the token ids of n captions, (n, ...) int64 by tokenizer, to the same columns."""
        import torch

        with torch.no_grad():
            on_device = {name: each.to(self.device) for name, each in ids.items()}
            found = self.family.encode_text(self.parts, on_device, self.model)
        return {name: column.half().cpu().numpy() for name, column in found.items()}

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Tell for each caption whether its end is not encoded."""
        return self.family.too_long(self.tokenizers, captions, self.model)
