"""Captions of a vision encoder with a GPT-2 decoder: `nlpconnect/vit-gpt2-image-captioning`.

It takes no prompt.
"""

from __future__ import annotations

from raytrain.data.captioners._local import Options
from raytrain.data.captioners._transformers import image_and, plugin

PROMPT: str | None = None
NEEDS_PATH = True

version, load, tiny = plugin(
    "vit_gpt2",
    "VisionEncoderDecoderModel",
    "a vision encoder with a text decoder",
    image_and(lambda tokenizer, model, prompt: {}),
    takes_prompt=False,
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
