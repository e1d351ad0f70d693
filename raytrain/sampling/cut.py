"""Prompts that are longer than what a model reads of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from raytrain import families
from raytrain.config import Config
from raytrain.data.columns import tokens
from raytrain.sampling.prompts import Prompt


def tell_cut(config: Config, prompts: Sequence[Prompt], tell: Callable[[str], None]) -> None:
    """Tell, in a sentence, of prompts whose end is not drawn; loads the model's tokenizers."""
    family = families.load(config.model.family)
    encoder = tokens.load(config, family, torch.device("cpu"), torch.float32)
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    long = [text for text, cut in zip(texts, encoder.too_long(texts), strict=True) if cut]
    if not long:
        return
    most = families.caption_tokens(family, config.model)
    more = [asked for asked, read in family.CAPTION_TOKENS.items() if read > most]
    remedy = f"set model.max_tokens = {more[0]}" if more else "shorten them"
    said = "prompt is" if len(long) == 1 else "prompts are"
    tell(
        f"{len(long)} {said} longer than {most} tokens, whose end is not drawn, such as "
        f"{long[0][:60]!r}; {remedy}."
    )
