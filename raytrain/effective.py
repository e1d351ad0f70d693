"""What a phase really uses where the config leaves it open, and why; kept next to its results.

<output>/effective/prepare.json, train.json   {"engine": {"value": "plain", "why": "..."}, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain import storage

FOLDER = "effective"
HEAD = "Effective settings of "

Settings = Mapping[str, tuple[Any, str]]
"""Setting -> what is used, and why."""


def keep(output: str, phase: str, settings: Settings) -> str:
    """Keep the settings of a phase, and return lines that say which are new since they were last
    kept; empty where none is."""
    uri = storage.join(output, FOLDER, f"{phase}.json")
    kept = storage.read_json(uri) if storage.exists(uri) else {}
    now = {name: {"value": value, "why": why} for name, (value, why) in settings.items()}
    new = {name: each for name, each in now.items() if kept.get(name) != each}
    if not new:
        return ""
    storage.write_json(uri, now)
    width = max(map(len, new))
    lines = (
        f"    {name:{width}}  {_words(each['value'])}: {each['why']}" for name, each in new.items()
    )
    return "\n".join([f"{HEAD}{phase}, kept in {uri}:", *lines])


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
