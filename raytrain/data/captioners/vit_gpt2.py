"""Captions of a vision encoder with a GPT-2 decoder: `nlpconnect/vit-gpt2-image-captioning`. It takes no prompt."""

from __future__ import annotations

from typing import Any

from PIL import Image

from raytrain.data.captioners import Captioner, _local
from raytrain.data.captioners._local import Options
from raytrain.dataconfig import CaptionConfig
from raytrain.errors import UserError

PROMPT: str | None = None
NEEDS_PATH = True


def version(config: CaptionConfig) -> str:
    """Return the hash over weights and settings."""
    if config.prompt:
        raise UserError(
            f"captioner 'vit_gpt2' cannot be asked anything, got data.captions.prompt = {config.prompt!r}, which would have no "
            "effect. Remove it, or choose a captioner that takes a prompt, such as blip."
        )
    return _local.version("vit_gpt2", config, PROMPT)


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load the encoder and the decoder."""
    from transformers import AutoImageProcessor, AutoTokenizer, VisionEncoderDecoderModel

    with _local.loading(config, "a vision encoder with a text decoder") as source:
        processor, tokenizer = (
            AutoImageProcessor.from_pretrained(**source, backend="pil"),
            AutoTokenizer.from_pretrained(**source),
        )
        model = _local.pretrained(VisionEncoderDecoderModel, config, source)

    def inputs(pictures: list[Image.Image]) -> dict[str, Any]:
        return dict(processor(images=pictures, return_tensors="pt"))

    return _local.LocalCaptioner(config, model, inputs, tokenizer, device)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a ViT + GPT-2 folder with tiny random weights."""
    from raytrain.data.captioners import _tiny

    _tiny.write_vit_gpt2(folder, seed)


__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
