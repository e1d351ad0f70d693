"""A method that reads token ids and knows words of its own, reached by its dotted path
`tests.data.token_method`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from raytrain.config import MethodConfig
from raytrain.families import Family
from raytrain.table import Names


class Config(MethodConfig):
    """`[method]` with `name = "tests.data.token_method"`."""

    name: Literal["tests.data.token_method"] = "tests.data.token_method"  # type: ignore[assignment]
    reads: Names = ("latents", "tokens")
    words: Names = ()


def columns(family: Family, config: Config) -> tuple[str, ...]:
    """Return what the config says."""
    return config.reads


def tokenizers(known: Mapping[str, Any], family: Family, config: Config) -> dict[str, Any]:
    """Add the config's words."""
    for each in known.values():
        each.add_tokens(list(config.words))
    return dict(known)
