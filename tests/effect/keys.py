"""Every key of the config file, from its JSON schema, and another value of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from raytrain.config.file import schema

Node = Mapping[str, Any]


def keys() -> dict[str, Node]:
    """Return key -> its schema. `method[lora].rank` is a method's own key, `data.subsets.0.source`
    that of a list's first table, `tune.space.*.log` that of a table of tables."""
    return dict(_walk(schema(), ""))


def table_of(key: str) -> str:
    """Return the table that a key stands in, without numbers: `data.subsets`."""
    return key.rpartition(".")[0].replace(".0", "").replace(".*", "").partition("[")[0]


def another(node: Node, now: Any) -> Any:
    """Return a value other than `now` that a key's schema allows, near it;
    LookupError where the schema does not say enough, as of text."""
    kinds = {kind.get("type"): kind for kind in node.get("anyOf", [node])}
    if "enum" in node:
        return next(value for value in node["enum"] if value != now)
    if "boolean" in kinds:
        return not now
    for name, step in (("integer", 1), ("number", 0.125)):
        if name in kinds:
            return _number(kinds[name], now, step)
    items = kinds.get("array", {}).get("prefixItems", ())
    if items and {item.get("type") for item in items} <= {"integer", "number"}:
        low, high = now
        return [low + (high - low) / 4, high]
    raise LookupError


def _number(node: Node, now: Any, step: float) -> float:
    least = node.get("minimum", node.get("exclusiveMinimum", 0))
    most = node.get("maximum", node.get("exclusiveMaximum", float("inf")))
    start = least if now is None or isinstance(now, str) else now
    return start + step if start + step < most else start - step


def _walk(node: Node, path: str) -> Iterator[tuple[str, Node]]:
    node, dot = _resolved(node), f"{path}." if path else ""
    if "oneOf" in node:
        for variant in map(_resolved, node["oneOf"]):
            yield from _walk(variant, f"{path}[{variant['properties']['name']['const']}]")
    elif "properties" in node:
        for name, child in node["properties"].items():
            if "const" not in child:
                yield from _walk(child, f"{dot}{name}")
    elif "properties" in _resolved(node.get("items", {})):
        yield from _walk(node["items"], f"{dot}0")
    elif "$ref" in json.dumps(node.get("additionalProperties", False)):
        yield from _walk(node["additionalProperties"], f"{dot}*")
    else:
        yield path, node


def _resolved(node: Node) -> Node:
    while "$ref" in node:
        named = _DEFINITIONS[node["$ref"].rpartition("/")[2]]
        node = {**named, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


_DEFINITIONS = schema()["$defs"]
