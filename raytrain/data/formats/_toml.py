"""What both of sd-scripts' layouts share: subsets of images with the same settings, and captions
on lines."""

from __future__ import annotations

import json
from typing import Any

import tomli_w

from raytrain.data.annotate.caption_text import lines
from raytrain.data.formats import DATASET, Entry, Output
from raytrain.data.sources._shared.kohya_config import NAMES


def settings(entry: Entry) -> dict[str, Any]:
    """Return what `[[datasets.subsets]]` says of an image, where it is not the default."""
    item = entry.item
    found = {"num_repeats": item.repeats, "is_reg": item.regularization,
             "caption_prefix": item.prefix, "caption_suffix": item.suffix}  # fmt: skip
    plain = {
        key: value
        for key, value in found.items()
        if value != {"num_repeats": 1, "is_reg": False}.get(key, "")
    }
    rules = _rules(entry)
    return plain | {key: rules[name] for key, name in NAMES.items() if name in rules}


def _rules(entry: Entry) -> dict[str, Any]:
    own = entry.item.caption_settings
    return dict(json.loads(own)) if own else {}


def text(entry: Entry, wildcard: bool) -> str:
    """Return the captions as sd-scripts reads them: a line each, and with wildcards on, braces
    doubled where they are none of their own."""
    rules, texts = _rules(entry), entry.item.captions
    if rules.get("wildcards"):
        return "\n".join(texts)
    each = [line for text in texts for line in lines(text, rules.get("lines", "joined"))]
    found = "\n".join(" ".join(line.split()) for line in each)
    return found.replace("{", "{{").replace("}", "}}") if wildcard else found


def write(output: Output, datasets: list[list[dict[str, Any]]]) -> None:
    """Write the dataset config: a list of subsets for each dataset."""
    tree = {"datasets": [{"subsets": subsets} for subsets in datasets if subsets]}
    output.text(DATASET, tomli_w.dumps(tree))
