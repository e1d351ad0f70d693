"""GIT captions (Wang et al. 2022, arXiv:2205.14100): `microsoft/git-large-coco`, for instance.

With a prompt, a question for the models trained on answers, the caption is what follows it.
"""

from __future__ import annotations

from typing import Any

from raytrain.data.captioners._local import Options
from raytrain.data.captioners._transformers import image_and, plugin

PROMPT: str | None = None
NEEDS_PATH = True


def _question(tokenizer: Any, model: Any, prompt: str) -> dict[str, list[int]]:
    return {
        "input_ids": [model.bos_token_id, *tokenizer(prompt, add_special_tokens=False).input_ids]
    }


version, load, tiny = plugin(
    "git", "GitForCausalLM", "a GIT captioning model", image_and(_question), answers=True
)

__all__ = ["NEEDS_PATH", "PROMPT", "Options", "load", "tiny", "version"]
