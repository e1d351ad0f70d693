"""What the columns made of captions share."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from raytrain.config import Config
from raytrain.data.store.schema import content_key

if TYPE_CHECKING:
    from raytrain.families import Family, Role


def facts(config: Config, family: Family, *roles: Role) -> str:
    """Return the hash over the files of parts with these roles and the length they read."""
    from raytrain import families, pretrained

    files = pretrained.hash_of(config.model, families.text_parts(family, *roles))
    return content_key(files, config.model.max_tokens)


def libraries() -> dict[str, str]:
    """Return the version of transformers: tokenizers and hidden states changed between its
    releases."""
    return {"transformers": version("transformers")}


def tokenizers(config: Config, family: Family, dtype: Any) -> dict[str, Any]:
    """Load the family's tokenizers, as the base model knows them."""
    from raytrain import families

    names = families.text_parts(family, "tokenizer")
    return {name: family.load(config.model, name, dtype) for name in names}


def taught(config: Config, family: Family, known: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizers as the config's method changes them."""
    from raytrain import methods

    return methods.load(config.method).tokenizers(known, family, config.method)


def new_words(config: Config, family: Family) -> dict[str, dict[str, int]]:
    """Return the words that the method adds to each tokenizer, with their ids;
    no tokenizer is loaded where it adds none."""
    import torch

    from raytrain import methods
    from raytrain.methods import _denoise

    if methods.load(config.method).tokenizers is _denoise.tokenizers:
        return {}
    before = {
        name: set(each.get_vocab())
        for name, each in tokenizers(config, family, torch.float32).items()
    }
    after = taught(config, family, tokenizers(config, family, torch.float32))
    return {
        name: {
            word: at for word, at in sorted(each.get_vocab().items()) if word not in before[name]
        }
        for name, each in after.items()
    }
