"""Splits of a source by the names of its folders and shards, as Hugging Face `datasets` tells them
apart: beside `train`, what is called validation, test and the like is held out.

Source: https://huggingface.co/docs/datasets/repository_structure.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from raytrain.data.files.location import named
from raytrain.data.sources._shared.tree import below, top

TRAIN = frozenset(("train", "training"))
HELD_OUT = frozenset(
    ("validation", "valid", "val", "dev", "test", "testing", "eval", "evaluation")
)
WORD = re.compile(r"[A-Za-z]+")


def of(source: str) -> Callable[[str], bool]:
    """Return what tells, by its path, whether an image of a source is of a split that is held
    out; never where the source has no split to train on."""
    names = top(source)
    if names is None or not any(
        _word(name) in TRAIN for name in (*names[0], *names[1], *below(source, names[1]))
    ):
        return lambda path: False
    return _is_held_out


def _is_held_out(path: str) -> bool:
    """Tell it by the first folder or shard above the image that is named like a split."""
    words = map(_word, named(path).split("/")[:-1])
    return next((word in HELD_OUT for word in words if word in TRAIN | HELD_OUT), False)


def _word(name: str) -> str:
    """Return the first word of a name, in lower case: `train-00000.parquet` -> `train`."""
    found = WORD.match(name)
    return found[0].lower() if found else ""
