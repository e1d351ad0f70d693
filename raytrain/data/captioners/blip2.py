"""BLIP-2 captions (Li et al. 2023, arXiv:2301.12597): `Salesforce/blip2-opt-6.7b` with five beams
and 64 tokens, for instance.

With a prompt ("Question: what is this? Answer:"), the caption is what follows it. The language
model is OPT or T5.
"""

from __future__ import annotations

from typing import Any

from raytrain.data.captioners._local import Options
from raytrain.data.captioners._transformers import image_and, plugin

PROMPT: str | None = None
NEEDS_PATH = True


def _question(tokenizer: Any, model: Any, prompt: str) -> dict[str, list[int]]:
    if model.image_token_id is None:
        raise ValueError("its config.json names no image_token_index.")
    return {
        "input_ids": [model.image_token_id] * model.num_query_tokens + tokenizer(prompt).input_ids
    }


version, load, tiny = plugin(
    "blip2",
    "Blip2ForConditionalGeneration",
    "a BLIP-2 captioning model",
    image_and(_question),
    answers=True,
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
