"""Every method in its small settings (`TINY` in its file, else its defaults),
each on a family that offers what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from raytrain import plugins
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.model import Model, build

Case = tuple[str, int]


def tables(name: str) -> Sequence[Mapping[str, Any]]:
    """Return a method's small settings: `TINY` in its file, a table or several."""
    found: Any = getattr(plugins.load("methods", name), "TINY", {})
    return (found,) if isinstance(found, Mapping) else tuple(found)


CASES: list[Case] = [
    (name, number) for name in plugins.names("methods") for number in range(len(tables(name)))
]
IDS = [f"{name}-{number}" for name, number in CASES]


def config_of(case: Case, family: str, folder: Path) -> Config:
    """Return the config of a case; the family's tiny model is in `<folder>/model`."""
    name, number = case
    return parse({
        "output": str(folder / "my-run"),
        "model": {"family": family, "path": str(folder / "model")},
        "method": {"name": name, **tables(name)[number]},
        "export": {"precision": "fp32"},
    })  # fmt: skip


def built(case: Case, folder: Callable[[str], Path]) -> tuple[Config, Model]:
    """Build a case on the first family, counted from its number, that offers what it asks for."""
    names = plugins.names("families")
    start = case[1] % len(names)
    for family in [*names[start:], *names[:start]]:
        config = config_of(case, family, folder(family))
        try:
            return config, build(config, torch.device("cpu"))
        except UserError as error:
            refused = error
    raise refused
