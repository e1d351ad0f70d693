"""Settings of `[data]` that changed since a dataset was made, reported before training. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

STORED = ("source", "format", "subsets", "cache", "held_out", "balance", "max_pixels", "max_side",
          "background", "quality", "buckets", "super_resolution", "augment", "captions",
          "masks", "controls")  # fmt: skip
"""Settings that change what a dataset holds; `encode.precision` is the one of [data.encode] that
does."""
SHOWN = 4
"""So many differences are named."""


def differences(made_with: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return `data.key old -> new` for each setting that changes what is stored and differs,
    in the order of the config.

    Both are `[data]` as plain trees. A setting that one of them does not know is passed over: it
    came with another version.
    """
    found: list[str] = []
    for key in STORED:
        if key in made_with and key in settings:
            found += _compare(f"data.{key}", made_with[key], settings[key])
    precisions = [tree.get("encode", {}).get("precision") for tree in (made_with, settings)]
    return found + (
        list(_compare("data.encode.precision", *precisions)) if all(precisions) else []
    )


def note(made_with: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Return one line for people; empty where the dataset matches the settings."""
    found = differences(made_with, settings)
    if not found:
        return ""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"the dataset was prepared with other settings: {', '.join(found[:SHOWN])}{more}; "
        "run `raytrain prepare` to bring it up to date"
    )


def _compare(key: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in new:
            if name in old:
                yield from _compare(f"{key}.{name}", old[name], new[name])
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, pair in enumerate(zip(old, new, strict=True)):
            yield from _compare(f"{key}.{number}", *pair)
    elif old != new:
        yield f"{key} {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
