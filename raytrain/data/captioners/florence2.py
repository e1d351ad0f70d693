"""Florence-2 captions (Xiao et al. 2023, arXiv:2311.06242), weights in transformers' own layout.

`florence-community/Florence-2-large` has it; the first release needs code of its own, which is not
run. The prompt is one of the captioning tasks: <CAPTION>, <DETAILED_CAPTION>,
<MORE_DETAILED_CAPTION>.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from raytrain.data.captioners._local import Inputs, Options
from raytrain.data.captioners._transformers import plugin

PROMPT: str | None = "<MORE_DETAILED_CAPTION>"
NEEDS_PATH = True


def _task(source: dict[str, Any], model: Any, prompt: str) -> tuple[Inputs, Any]:
    from transformers import Florence2Processor

    processor = Florence2Processor.from_pretrained(**source, backend="pil")

    def inputs(images: list[Image.Image]) -> dict[str, Any]:
        return dict(processor(images=images, text=[prompt] * len(images), return_tensors="pt"))

    return inputs, processor.tokenizer


version, load, tiny = plugin(
    "florence2",
    "Florence2ForConditionalGeneration",
    "a Florence-2 model in transformers' own layout",
    _task,
    prompt=PROMPT,
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
