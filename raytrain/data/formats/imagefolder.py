"""The Hugging Face `imagefolder`: images, and `metadata.jsonl` with a line for each caption.

Format: https://huggingface.co/docs/datasets/image_dataset
"""

from __future__ import annotations

from collections.abc import Iterable

from raytrain.data.formats import Entry, Output
from raytrain.data.formats._json import dump

CARRIES, INSIDE = frozenset(("several", "mask", "control")), True
LAYERS = {"mask": "mask_file_name", "control": "conditioning_image_file_name"}


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `metadata.jsonl`; all lines have the same fields."""
    with output.stream("metadata.jsonl") as file:
        for entry in entries:
            layers = {
                name: output.layer(entry, kind) or None
                for kind, name in LAYERS.items()
                if kind in output.uses
            }
            for text in entry.item.captions or ("",):
                line = {"file_name": output.place(entry), "text": text, **layers}
                file.write(dump(line) + b"\n")
