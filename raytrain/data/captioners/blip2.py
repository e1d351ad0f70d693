"""BLIP-2 captions (Li et al. 2023, arXiv:2301.12597): `Salesforce/blip2-opt-6.7b` with five beams and 64 tokens, for instance.

With a prompt ("Question: what is this? Answer:"), the caption is what follows it.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from raytrain.data.captioners import Captioner, _local
from raytrain.data.captioners._local import Options
from raytrain.dataconfig import CaptionConfig

PROMPT: str | None = None
NEEDS_PATH = True


def version(config: CaptionConfig) -> str:
    """Return the hash over weights, prompt and settings."""
    return _local.version("blip2", config, PROMPT)


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load BLIP-2 with its language model, OPT or T5."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, Blip2ForConditionalGeneration

    with _local.loading(config, "a BLIP-2 captioning model") as source:
        processor, tokenizer = (
            AutoImageProcessor.from_pretrained(**source, backend="pil"),
            AutoTokenizer.from_pretrained(**source),
        )
        model = _local.pretrained(Blip2ForConditionalGeneration, config, source)
        if model.config.image_token_id is None:
            raise ValueError("its config.json names no image_token_index.")
    question = tokenizer(_local.prompt(config, PROMPT) or "").input_ids
    asked = torch.tensor([[model.config.image_token_id] * model.config.num_query_tokens + question])

    def inputs(pictures: list[Image.Image]) -> dict[str, Any]:
        return dict(processor(images=pictures, return_tensors="pt")) | {"input_ids": asked.repeat(len(pictures), 1)}

    return _local.LocalCaptioner(config, model, inputs, tokenizer, device, answers=True)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a BLIP-2 folder with tiny random weights."""
    from raytrain.data.captioners import _tiny

    _tiny.write_blip2(folder, seed)


__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
