"""What both of sd-scripts' layouts share: subsets of images with the same settings, and captions
on lines."""

from __future__ import annotations

from typing import Any

import tomli_w

from raytrain.data.formats import DATASET, Entry, Output

FIELDS = ("repeats", "regularization", "prefix", "suffix")
Settings = tuple[Any, ...]
"""What a subset has in common."""


def settings(entry: Entry) -> dict[str, Any]:
    """Return what `[[datasets.subsets]]` says of an image, where it is not the default."""
    item = entry.item
    found = {"num_repeats": item.repeats, "is_reg": item.regularization,
             "caption_prefix": item.prefix, "caption_suffix": item.suffix}  # fmt: skip
    return {
        key: value
        for key, value in found.items()
        if value != {"num_repeats": 1, "is_reg": False}.get(key, "")
    }


def text(entry: Entry, wildcard: bool) -> str:
    """Return the captions as sd-scripts reads them: a line each, and with wildcards on, braces
    doubled."""
    lines = "\n".join(entry.one_line())
    return lines.replace("{", "{{").replace("}", "}}") if wildcard else lines


def write(output: Output, datasets: list[list[dict[str, Any]]]) -> None:
    """Write the dataset config: a list of subsets for each dataset."""
    tree = {"datasets": [{"subsets": subsets} for subsets in datasets if subsets]}
    output.text(DATASET, tomli_w.dumps(tree))
