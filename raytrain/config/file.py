"""Read, override, check and write the config file.

    config = load("config.toml", ["train.learning_rate=3e-4"])

A misspelt key, a wrong type or an impossible combination is one UserError naming the key, the
nearest valid name and the allowed values.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from raytrain import plugins
from raytrain.config import Config
from raytrain.config.tune import Dimension, TuneConfig
from raytrain.errors import UserError, unknown
from raytrain.text import decode


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file, apply `a.b=c` overrides, of which `a.b=` takes a key of the file away, and
    return the checked config; UserError says what is wrong."""
    file = Path(path)
    if not file.is_file():
        raise UserError(
            f"The config file {str(path)!r} does not exist. Give the path of a TOML file."
        )
    try:
        text = decode(file.read_bytes())
    except ValueError as error:
        raise UserError(f"The config file {str(path)!r} {error}.") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is no valid TOML file: {error}.") from error
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--set needs key=value, got {override!r}.")
        if text.strip():
            set_key(tree, key.strip(), _toml_value(text.strip()))
        else:
            _drop_key(tree, key.strip(), str(path))
    return parse(tree, where=str(path))


def parse(tree: Mapping[str, Any], where: str = "config") -> Config:
    """Check a plain tree of settings and return the config; UserError lists every mistake."""
    try:
        return Config.model_validate(_without_none(tree))
    except ValidationError as error:
        lines = [_sentence(tree, dict(problem)) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set dotted `key` in a tree of tables, in place, making tables on the way."""
    *path, last = key.split(".")
    for name in path:
        child = tree.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {key}: {name!r} is a value, not a table.")
        tree = child
    tree[last] = value


def _drop_key(tree: dict[str, Any], key: str, path: str) -> None:
    *tables, last = key.split(".")
    for name in tables:
        inner = tree.get(name)
        tree = inner if isinstance(inner, dict) else {}
    if last not in tree:
        raise UserError(
            f"--set {key}= takes a key of the config file away, but {path} has no {key}. Its "
            'default counts already; an empty text is written "".'
        )
    del tree[last]


def to_toml(config: Config) -> str:
    """Return the config as TOML text that `load` reads back to an equal config."""
    return tomli_w.dumps(_without_none(config.values()))


def schema() -> dict[str, Any]:
    """Return the JSON schema of the config file, with every method's own table, for editors."""
    tree = Config.model_json_schema()
    variants = []
    for name in plugins.names("methods"):
        variant = plugins.load("methods", name).Config.model_json_schema(
            ref_template="#/$defs/{model}"
        )
        tree["$defs"].update(variant.pop("$defs", {}))
        variant["properties"]["name"] = {"const": name}
        variants.append(variant)
    tree["properties"]["method"] = {"oneOf": variants}
    return tree


def _without_none(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {k: _without_none(v) for k, v in tree.items() if v is not None}
    return [_without_none(v) for v in tree] if isinstance(tree, list | tuple) else tree


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sentence(tree: Mapping[str, Any], problem: dict[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key, kind = ".".join(location), problem["type"]
    if kind == "extra_forbidden":
        valid = _valid_keys(tree, location[:-1])
        if owners := _methods_with(location):
            own = ", ".join(repr(name) for name in owners)
            return (
                f"unknown key {key!r}: method {tree['method'].get('name', 'lora')!r} has no such "
                f"key, {own} {'has' if len(owners) == 1 else 'have'}. Leave it out (--set {key}=)."
            )
        return str(unknown("key", location[-1], valid)).replace(
            "key ", f"unknown key {key!r}: ", 1
        )
    if kind == "missing":
        return f"key {key!r} is missing and has no default."
    if kind in ("value_error", "assertion_error"):
        return f"{key or 'config'}: {problem['ctx']['error']}"
    return f"{key} = {json.dumps(problem['input'], default=str)} is not allowed: {problem['msg']}."


def _methods_with(location: list[str]) -> list[str]:
    """Return the methods that have a key, given as its path."""
    if len(location) != 2 or location[0] != "method":
        return []
    configs = {name: plugins.load("methods", name).Config for name in plugins.names("methods")}
    return [name for name, table in configs.items() if location[1] in table.model_fields]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _valid_keys(tree: Mapping[str, Any], location: Iterable[str]) -> list[str]:
    table: Any = Config
    values: Any = tree
    for name in location:
        if name.isdecimal():  # of a list of tables, whose kind is known already
            values = values[int(name)] if isinstance(values, Sequence) else {}
            continue
        values = values.get(name, {}) if isinstance(values, Mapping) else {}
        if name == "method":
            table = plugins.load("methods", str(values.get("name", "lora"))).Config
        elif table is TuneConfig and name == "space":
            return list(Dimension.model_fields)
        else:
            field = table.model_fields.get(name)
            kinds = () if field is None else (field.annotation, *get_args(field.annotation))
            table = next((kind for kind in kinds if _is_table(kind)), None)
            if table is None:
                return []
    return list(table.model_fields)
