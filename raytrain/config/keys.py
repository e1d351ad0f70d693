"""Config keys by dotted name, such as `data.subsets[0].repeats`: defaults, reading, writing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from raytrain import optimizers, plugins
from raytrain.config import Config
from raytrain.config.data import ScoreConfig, SubsetConfig
from raytrain.errors import UserError

REQUIRED = object()
"""Stands for the default of a key that has none."""
_LISTS: dict[str, type[BaseModel]] = {
    "data.subsets": SubsetConfig,
    "data.quality.scores": ScoreConfig,
}
_FREE = ("train.optimizer_options", "data.captions.options", "data.controls.options")
"""Tables of options, which a plug-in checks."""


def default(key: str, tree: Mapping[str, Any]) -> Any:
    """Return the default of a dotted key such as `data.subsets[0].repeats` in a config's tree;
    KeyError where there is no such key."""
    table: Any = Config
    plain = re.sub(r"\[\d+\]", "", key)
    if plain.startswith(_FREE):
        return REQUIRED
    *path, last = plain.split(".")
    for number, name in enumerate(path, 1):
        if name == "method":
            table = plugins.load("methods", tree.get("method", {}).get("name", "lora")).Config
        else:
            field = table.model_fields[name]
            table = _LISTS.get(".".join(path[:number]), field.annotation)
    if table is Config.model_fields["train"].annotation and last in optimizers.ARGUMENTS:
        return optimizers.defaults(_optimizer(tree))[last]
    field = table.model_fields[last]
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True)


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in place, making tables and items of lists on the way."""
    *path, last = key.split(".")
    for name in path:
        name, _, index = name.partition("[")
        if not index:
            tree = tree.setdefault(name, {})
            continue
        items = tree.setdefault(name, [])
        items += [{} for _ in range(int(index[:-1]) + 1 - len(items))]
        tree = items[int(index[:-1])]
    tree[last] = value


def get(tree: Any, key: str) -> Any:
    """Return what a tree has at a dotted key, None where it has nothing."""
    for name, index in re.findall(r"([^.\[\]]+)(?:\[(\d+)\])?", key):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
        if index:
            tree = tree[int(index)] if isinstance(tree, list) and int(index) < len(tree) else None
    return tree


def _optimizer(tree: Mapping[str, Any]) -> str:
    """Return the tree's optimizer, AdamW where it is one that is not installed."""
    name = str(tree.get("train", {}).get("optimizer", "adamw"))
    try:
        optimizers.load(name)
    except UserError:
        return "adamw"
    return name
