"""Other trainers' files as flat keys: command lines, TOML, JSON and YAML."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

import yaml

from raytrain.errors import UserError

SCRIPT = "script"
"""The key of the training script's name."""
_ASSIGNED = re.compile(r"^\s*(?:export\s+|set\s+)?([A-Za-z_]\w*)=(.*)$")


@dataclass(frozen=True)
class Document:
    """A file: its path as given, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> Any:
        """Return what JSON, TOML or YAML holds, by the file's extension, and None of any other
        file; UserError where it cannot be read."""
        ending = PurePath(self.path).suffix.lower()
        try:
            if ending == ".json":
                return json.loads(self.text)
            if ending == ".toml":
                return tomllib.loads(self.text)
            return yaml.safe_load(self.text) if ending in (".yaml", ".yml") else None
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise UserError(
                f"{self.path!r} must be readable {ending[1:].upper()}: {error}. Nothing was "
                "imported; correct the file."
            ) from error

    @cached_property
    def table(self) -> Mapping[str, Any]:
        """Return the tree where it is a table with text for keys, else nothing."""
        tree = self.tree
        return tree if isinstance(tree, dict) and all(isinstance(key, str) for key in tree) else {}

    @cached_property
    def command(self) -> dict[str, Any]:
        """Return the flags of a command line, the launcher's as `launcher.<flag>` and the script's
        name as `script`; nothing where the text starts no script."""
        return {} if self.tree is not None else command(self.text, self.path)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree by dotted key; a list of tables has an index, any other list is
    a leaf.

    >>> flat({"a": {"b": 1}, "c": [{"d": [2, 3]}]})
    {'a.b': 1, 'c[0].d': [2, 3]}
    """
    if isinstance(tree, Mapping) and tree:
        found: dict[str, Any] = {}
        for key, value in tree.items():
            found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    if isinstance(tree, list) and tree and all(isinstance(each, Mapping) for each in tree):
        found = {}
        for number, each in enumerate(tree):
            found |= flat(each, f"{prefix}[{number}]")
        return found
    return {prefix: tree}


def command(text: str, where: str) -> dict[str, Any]:
    """Return a training command's flags in order, a flag without a value as True, one with several
    as a list; UserError where the text starts several scripts."""
    names: dict[str, str] = {}
    words: list[str] = []
    for line in re.sub(r"[ \t]*[\\^`][ \t]*\r?\n", " ", text).splitlines():
        match = _ASSIGNED.match(line)
        try:
            if match and len(shlex.split(match[2], comments=True)) <= 1:
                names[match[1]] = "".join(shlex.split(_filled(match[2], names), comments=True))
                continue
            found = shlex.split(_filled(line, names), comments=True)
        except ValueError as error:
            raise UserError(
                f"{where!r} is no command line: {error}. Nothing was imported."
            ) from error
        words += found
    scripts = [number for number, word in enumerate(words) if word.endswith(".py")]
    if len(scripts) > 1:
        raise UserError(
            f"{where!r} must start one training script, got "
            f"{', '.join(words[number] for number in scripts)}. Give a file with one command."
        )
    if not scripts:
        return {}
    launcher = {f"launcher.{key}": value for key, value in _flags(words[: scripts[0]]).items()}
    script = words[scripts[0]].replace("\\", "/").rpartition("/")[2]
    return {**launcher, SCRIPT: script, **_flags(words[scripts[0] + 1 :])}


def _filled(text: str, names: Mapping[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda match: names.get(match[1], match[0]), text)


def _flags(words: list[str]) -> dict[str, Any]:
    """Return flags and values; words before the first flag are the launcher's own name."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words:
        if word.startswith("--"):
            key, given, value = word[2:].partition("=")
            values = found[key.replace("-", "_")] = [value] if given else []
        else:
            values.append(word)
    return {
        key: True if not given else given[0] if len(given) == 1 else given
        for key, given in found.items()
    }
