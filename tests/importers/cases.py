"""Configurations of other trainers, rebuilt from their public examples and documentation: a folder
each, `examples/<trainer>/<name>`, with all its files."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raytrain import plugins
from raytrain.translate import Translation, read_files, translate

EXAMPLES = Path(__file__).parent / "examples"
TRAINERS = plugins.names("importers")
CASES = sorted(
    folder.relative_to(EXAMPLES).as_posix() for folder in EXAMPLES.glob("*/*") if folder.is_dir()
)


def files(case: str) -> list[Path]:
    """Return the files of a case."""
    return sorted((EXAMPLES / case).iterdir())


@cache
def translated(case: str) -> Translation:
    """Return the translation of a case, whose trainer its files tell."""
    return translate(read_files(files(case)))


def written(case: str) -> list[str]:
    """Return the last name of every key that the files of a case set, read without an importer."""
    found: list[str] = []
    for file in files(case):
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".sh":
            words = shlex.split(text.replace("\\\n", " "), comments=True)
            found += [re.split("[= ]", word[2:])[0] for word in words if word.startswith("--")]
        else:
            read = {".json": json.loads, ".toml": tomllib.loads, ".yaml": yaml.safe_load}
            found += leaves(read[file.suffix](text))
    return found


def leaves(tree: Any, name: str = "") -> Iterator[str]:
    """Yield the name of each leaf of a tree; a list of tables is no leaf."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, key.lstrip("-").rpartition("/")[2])
    elif isinstance(tree, list) and any(isinstance(each, dict) for each in tree):
        for each in tree:
            yield from leaves(each, name)
    else:
        yield name
