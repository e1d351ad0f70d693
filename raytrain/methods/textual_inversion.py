"""Textual inversion: new words whose embeddings learn, and nothing else
(Gal et al. 2022, arXiv:2208.01618).

The words must stand in the captions, for instance as `data.captions.trigger`. Text encoders run in
the step, on stored token ids. A word of several vectors is written as diffusers does: `<cat>` is
read as `<cat> <cat>_1 <cat>_2`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from raytrain import families
from raytrain.config import MethodConfig
from raytrain.errors import UserError
from raytrain.optimizers import Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from raytrain.artifacts import Embeddings
    from raytrain.config import Config as WholeConfig
    from raytrain.families import Family

FREEZES_BASE = True
TINY = (
    {"tokens": ["<new>"], "vectors": 2, "init": "a"},
    {"tokens": ["<one>", "<two>"]},
    {"tokens": ["<new>"]},
)


class Config(MethodConfig):
    """`[method]` with `name = "textual_inversion"`."""

    name: Literal["textual_inversion"] = "textual_inversion"
    tokens: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """The new words; no tokenizer may know them."""
    vectors: int = Field(1, ge=1)
    """Vectors of each word."""
    init: str = ""
    """Known words whose embeddings the vectors start from, in order and again from the first;
    empty: random numbers with the mean and deviation of all embeddings."""

    @model_validator(mode="after")
    def _words(self) -> Config:
        for word in self.tokens:
            if not word or re.search(r"\s|_\d+$", word):
                raise ValueError(
                    "tokens must be words without spaces that do not end in _ and digits, got "
                    f"{word!r}"
                )
        if len(set(self.tokens)) != len(self.tokens):
            raise ValueError(f"tokens must differ from each other, got {list(self.tokens)}")
        return self

    @property
    def entries(self) -> list[str]:
        """What the tokenizers learn: one entry for each vector."""
        return [entry for word in self.tokens for entry in _entries(word, self.vectors)]


def columns(family: Family, config: Config) -> tuple[str, ...]:
    """Return what training reads: latents and token ids."""
    return ("latents", "tokens")


def build(
    load: Callable[[str], Any], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the frozen denoiser and text encoders, these with trainable fp32 embeddings of the
    new words."""
    parts: dict[str, nn.Module] = {}
    for name in families.text_parts(family, "text"):
        parts[name] = load(name)
        if _learns(name, family):
            _extend(parts[name], load(name.replace("text_encoder", "tokenizer")), config, seed)
    denoiser = families.denoiser(family)
    return {**parts, denoiser: load(denoiser)}


def groups(config: Config) -> dict[str, Group]:
    """Return that embeddings do not decay: zero is no better a meaning than others."""
    return {"text_encoder": Group(weight_decay=0.0)}


def tokenizers(known: Mapping[str, Any], family: Family, config: Config) -> dict[str, Any]:
    """Return the tokenizers, of which those of encoders that learn know the new words;
    UserError where one knew it before."""
    return {
        name: _taught(each, config) if _learns(name, family) else each
        for name, each in known.items()
    }


def known_words(text: str, config: Config) -> str:
    """Return a prompt with `init` in the place of each new word, or, where that is empty, without
    it and the comma beside it."""
    words = "|".join(rf"{each}(?:\s*{each}_\d+)*" for each in map(re.escape, config.tokens))
    known, count = re.subn(words, config.init, text)
    return re.sub(r"\s*,[\s,]*", ", ", " ".join(known.split())).strip(", ") if count else text


def pipeline(config: WholeConfig, parts: Mapping[str, nn.Module], device: torch.device) -> Any:
    """Return the family's pipeline, whose tokenizers know the new words."""
    family, model = families.load(config.model.family), config.model
    dtype: Any = parts[families.denoiser(family)].dtype
    known = {
        name: family.load(model, name, dtype) for name in families.text_parts(family, "tokenizer")
    }
    taught = tokenizers(known, family, config.method)  # type: ignore[arg-type]
    return family.pipeline(model, {**parts, **taught}, config.sample.scheduler, device)


def artifacts(state: Mapping[str, Tensor], config: Config, family: Family) -> list[Embeddings]:
    """Return the words' vectors for each text encoder."""
    from raytrain.artifacts import Embeddings

    found = []
    for name, rows in state.items():
        words = {
            word: rows[at * config.vectors :][: config.vectors]
            for at, word in enumerate(config.tokens)
        }
        found.append(Embeddings(name.partition(".")[0], words))
    return found


def _learns(part: str, family: Family) -> bool:
    """Return whether words are added to a text encoder or its tokenizer:
    not where nothing learns of it, such as T5."""
    return part.replace("tokenizer", "text_encoder") in family.LORA_TARGETS


def _taught(tokenizer: Any, config: Config) -> Any:
    from raytrain.methods._words import Words

    known = tokenizer.get_vocab()
    if taken := [entry for entry in config.entries if entry in known]:
        raise UserError(
            f"method.tokens must be new words, but the tokenizer knows {', '.join(taken)}; its "
            "meaning would be replaced. Choose another word, such as one in angle brackets."
        )
    return Words(tokenizer, {word: _entries(word, config.vectors) for word in config.tokens})


def _extend(encoder: Any, known: Any, config: Config, seed: int) -> None:
    """Give a text encoder rows for the new words, which follow those of its tokenizer."""
    import torch

    from raytrain.methods._words import NewRows

    first, old = len(known), encoder.get_input_embeddings()
    count = len(config.entries)
    if config.init:
        ids: Tensor = known(config.init, add_special_tokens=False, return_tensors="pt").input_ids[
            0
        ]
        each = [ids[number % config.vectors % len(ids)] for number in range(count)]
        new = old.weight[torch.stack(each)].float()
    else:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, old.weight.shape[1], generator=generator)
        new = old.weight.float().mean(0) + noise * old.weight.float().std(0)
    encoder.set_input_embeddings(NewRows(old, first, new))
    # An encoder of an old config takes the largest id for the end of the text, and a new word's is
    # larger still.
    encoder.config.eos_token_id = known.eos_token_id
    for part in encoder.modules():
        if hasattr(part, "eos_token_id"):
            part.eos_token_id = known.eos_token_id


def _entries(word: str, vectors: int) -> list[str]:
    return [word, *(f"{word}_{number}" for number in range(1, vectors))]
