"""BLIP captions (Li et al. 2022, arXiv:2201.12086): `Salesforce/blip-image-captioning-base` or `-large`, for instance.

A prompt is the caption's beginning, which BLIP continues.
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
    return _local.version("blip", config, PROMPT)


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load BLIP."""
    from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration

    with _local.loading(config, "a BLIP captioning model") as source:
        processor, tokenizer = (
            AutoImageProcessor.from_pretrained(**source, backend="pil"),
            AutoTokenizer.from_pretrained(**source),
        )
        model = _local.pretrained(BlipForConditionalGeneration, config, source)
    beginning = _local.prompt(config, PROMPT)

    def inputs(pictures: list[Image.Image]) -> dict[str, Any]:
        ready = dict(processor(images=pictures, return_tensors="pt"))
        if beginning:
            text = tokenizer([beginning] * len(pictures), return_tensors="pt")
            ready |= {name: text[name] for name in ("input_ids", "attention_mask")}
        return ready

    return _local.LocalCaptioner(config, model, inputs, tokenizer, device)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a BLIP folder with tiny random weights."""
    from raytrain.data.captioners import _tiny

    _tiny.write_blip(folder, seed)


__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
