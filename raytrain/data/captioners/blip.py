"""BLIP captions (Li et al. 2022, arXiv:2201.12086): `Salesforce/blip-image-captioning-base` or
`-large`, for instance.

A prompt is the caption's beginning, which BLIP continues.
"""

from __future__ import annotations

from typing import Any

from raytrain.data.captioners._local import Options
from raytrain.data.captioners._transformers import image_and, plugin

PROMPT: str | None = None
NEEDS_PATH = True


def _beginning(tokenizer: Any, model: Any, prompt: str) -> dict[str, list[int]]:
    tokens = tokenizer(prompt) if prompt else {}
    return {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}


version, load, tiny = plugin(
    "blip", "BlipForConditionalGeneration", "a BLIP captioning model", image_and(_beginning)
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
