"""Florence-2 captions (Xiao et al. 2023, arXiv:2311.06242), weights in transformers' own layout.

`florence-community/Florence-2-large` has it; the first release needs code of its own, which is not run. The prompt is one of the
captioning tasks: <CAPTION>, <DETAILED_CAPTION>, <MORE_DETAILED_CAPTION>.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from raytrain.data.captioners import Captioner, _local
from raytrain.data.captioners._local import Options
from raytrain.dataconfig import CaptionConfig

PROMPT: str | None = "<MORE_DETAILED_CAPTION>"
NEEDS_PATH = True


def version(config: CaptionConfig) -> str:
    """Return the hash over weights, task and settings."""
    return _local.version("florence2", config, PROMPT)


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load Florence-2."""
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

    with _local.loading(config, "a Florence-2 model in transformers' own layout") as source:
        processor = Florence2Processor.from_pretrained(**source, backend="pil")
        model = _local.pretrained(Florence2ForConditionalGeneration, config, source)
    task = _local.prompt(config, PROMPT) or ""

    def inputs(pictures: list[Image.Image]) -> dict[str, Any]:
        return dict(processor(images=pictures, text=[task] * len(pictures), return_tensors="pt"))

    return _local.LocalCaptioner(config, model, inputs, processor.tokenizer, device)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a Florence-2 folder with tiny random weights."""
    from raytrain.data.captioners import _tiny

    _tiny.write_florence2(folder, seed)


__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
