"""Token ids of captions, int32, for methods that run text encoders in the step;
named after the tokenizers' folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raytrain.config import Config
from raytrain.data.columns import _captions
from raytrain.data.store.schema import Array, content_key

if TYPE_CHECKING:
    import torch

    from raytrain.families import Family

OF, MAKER = "caption", "tokenizer"


def version(config: Config, family: Family) -> Mapping[str, str]:
    """Return the hash of the tokenizers' files, their length and the words that the method teaches
    them."""
    files, words = (
        _captions.facts(config, family, "tokenizer"),
        _captions.new_words(config, family),
    )
    return {
        MAKER: content_key(files, words),
        **_captions.libraries(),
        "family": config.model.family,
    }


def arrays(config: Config, family: Family) -> dict[str, Array]:
    """Return the ids of each tokenizer, whose number no caption changes."""
    import torch

    known = _captions.taught(config, family, _captions.tokenizers(config, family, torch.float32))
    found = family.tokenize(known, [""], config.model)
    return {name: Array(dtype="int32", shape=tuple(ids.shape[1:])) for name, ids in found.items()}


def load(config: Config, family: Family, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Load the tokenizers, which know the words of the config's method."""
    known = _captions.tokenizers(config, family, dtype)
    return Encoder(config, family, _captions.taught(config, family, known))


class Encoder:
    """Tokenizers; there is nothing on a device."""

    def __init__(self, config: Config, family: Family, tokenizers: Mapping[str, Any]) -> None:
        """Take the tokenizers by the names of their folders."""
        self.model, self.family, self.tokenizers = config.model, family, tokenizers

    def encode(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """Map n captions to ids, `tokenizer`, `tokenizer_2`, ... (n, ...) int32."""
        found = self.family.tokenize(self.tokenizers, captions, self.model)
        return {name: ids.numpy().astype(np.int32) for name, ids in found.items()}

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Tell for each caption whether it has more tokens than are kept."""
        return self.family.too_long(self.tokenizers, captions, self.model)
