"""GIT captions (Wang et al. 2022, arXiv:2205.14100): `microsoft/git-large-coco`, for instance.

With a prompt, a question for the models trained on answers, the caption is what follows it.
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
    return _local.version("git", config, PROMPT)


def load(config: CaptionConfig, device: str = "") -> Captioner:
    """Load GIT."""
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, GitForCausalLM

    with _local.loading(config, "a GIT captioning model") as source:
        processor = AutoImageProcessor.from_pretrained(**source, backend="pil")
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = _local.pretrained(GitForCausalLM, config, source)
    question = tokenizer(_local.prompt(config, PROMPT) or "", add_special_tokens=False).input_ids
    asked = torch.tensor([[model.config.bos_token_id, *question]])

    def inputs(pictures: list[Image.Image]) -> dict[str, Any]:
        return dict(processor(images=pictures, return_tensors="pt")) | {"input_ids": asked.repeat(len(pictures), 1)}

    return _local.LocalCaptioner(config, model, inputs, tokenizer, device, answers=True)


def tiny(folder: str, seed: int = 0) -> None:
    """Write a GIT folder with tiny random weights."""
    from raytrain.data.captioners import _tiny

    _tiny.write_git(folder, seed)


__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
