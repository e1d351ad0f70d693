"""Captions of a vision-language model that chats: LLaVA, LLaVA-NeXT, SmolVLM,
Qwen-VL and what else transformers can load.

The prompt is a user's message next to the image; the caption is the answer. Video processors need
torchvision: they are not loaded.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from raytrain.data.captioners._local import Inputs, Options
from raytrain.data.captioners._transformers import plugin

PROMPT: str | None = (
    'please describe this image into prompt words, and reply us with keywords like "xxx, xxx, '
    'xxx, xxx"'
)
"""The query of simple-SD-trainer."""
NEEDS_PATH = True


def _query(source: dict[str, Any], model: Any, prompt: str) -> tuple[Inputs, Any]:
    processor = _processor(source)
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    query = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )

    def inputs(images: list[Image.Image]) -> dict[str, Any]:
        asked = [query] * len(images)
        return dict(
            processor(
                images=[[image] for image in images], text=asked, padding=True, return_tensors="pt"
            )
        )

    return inputs, processor.tokenizer


def _processor(source: dict[str, Any]) -> Any:
    """Load the processor class that the folder names from its image and text halves alone."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    name = PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(**source).model_type]
    kind = getattr(transformers, name)
    if "video_processor" not in kind.get_attributes():
        return kind.from_pretrained(**source, backend="pil")

    class ImagesOnly(kind):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return (
                None
                if argument is None
                else super().check_argument_for_proper_class(argument_name, argument)
            )

    settings = kind.get_processor_dict(**source)[0]
    tokenizer = AutoTokenizer.from_pretrained(**source)
    return ImagesOnly(
        image_processor=AutoImageProcessor.from_pretrained(**source, backend="pil"),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=settings.get("chat_template") or tokenizer.chat_template,
    )


version, load, tiny = plugin(
    "chat_vlm",
    "AutoModelForImageTextToText",
    "a chat model that sees images",
    _query,
    prompt=PROMPT,
    answers=True,
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
