"""A captioner of transformers as a plug-in: a model class, and how a prompt is put to it.

version, load, tiny = plugin("git", "GitForCausalLM", "a GIT captioning model", image_and(asked),
answers=True)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image

from raytrain.config.data import CaptionConfig
from raytrain.data.captioners import Captioner, _local
from raytrain.errors import UserError

Preparing = Callable[[dict[str, Any], Any, str], tuple[_local.Inputs, Any]]
"""(arguments of `from_pretrained`, the model's config, the prompt or "")
-> what makes inputs of images, and a tokenizer."""
Asking = Callable[[Any, Any, str], dict[str, list[int]]]
"""(tokenizer, the model's config, the prompt or "") -> the token columns that go with one
image."""


def plugin(
    name: str,
    model_class: str,
    what: str,
    preparing: Preparing,
    *,
    prompt: str | None = None,
    answers: bool = False,
    takes_prompt: bool = True,
) -> tuple[Callable[..., str], Callable[..., Captioner], Callable[..., None]]:
    """Return `version`, `load` and `tiny` of captioner `name`.

    `what` says in messages what `path` must hold; `answers`: the model repeats the prompt, which
    is no part of the caption.
    """

    def version(config: CaptionConfig) -> str:
        if config.prompt and not takes_prompt:
            raise UserError(
                f"captioner {name!r} cannot be asked anything, got data.captions.prompt = "
                f"{config.prompt!r}, which would have no effect. Remove it, or choose a captioner "
                "that takes a prompt, such as blip."
            )
        return _local.version(name, config, prompt)

    def load(config: CaptionConfig, device: str = "") -> Captioner:
        import transformers

        with _local.loading(config, what) as source:
            model = _local.pretrained(getattr(transformers, model_class), config, source)
            inputs, tokenizer = preparing(
                source, model.config, _local.prompt(config, prompt) or ""
            )
        return _local.LocalCaptioner(config, model, inputs, tokenizer, device, answers=answers)

    def tiny(folder: str, seed: int = 0) -> None:
        from raytrain.data.captioners import _tiny

        getattr(_tiny, f"write_{name}")(folder, seed)

    return version, load, tiny


def image_and(asking: Asking) -> Preparing:
    """Inputs are an image's pixels, and the same tokens for every image."""

    def preparing(source: dict[str, Any], model: Any, prompt: str) -> tuple[_local.Inputs, Any]:
        import torch
        from transformers import AutoImageProcessor, AutoTokenizer

        processor = AutoImageProcessor.from_pretrained(**source, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(**source)
        asked = {
            name: torch.tensor([tokens])
            for name, tokens in asking(tokenizer, model, prompt).items()
        }

        def inputs(images: list[Image.Image]) -> dict[str, Any]:
            repeated = {name: tokens.repeat(len(images), 1) for name, tokens in asked.items()}
            return dict(processor(images=images, return_tensors="pt")) | repeated

        return inputs, tokenizer

    return preparing
