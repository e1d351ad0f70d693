"""A table of images: CSV, TSV or JSONL, an image a row, in a file on a disk or in an object store.

The image is in the column path, file, file_name, filename, url or image: a path (from the table's
folder), a URI or a web address. The caption is in text, caption or prompt; in JSONL a list is
several captions, as are neighboring rows of the same image. A local image without a caption takes
the text file next to it. mask and conditioning_image (or control) are layers.
"""

from __future__ import annotations

from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, look, parent, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.records import Records
from raytrain.data.sources._shared.rows import rows

ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson")
COLUMNS = True


def recognizes(source: str) -> bool:
    """Tell whether the source is a file of that kind."""
    return (
        base_name(absolute(source)).lower().endswith(ENDINGS)
        and look(absolute(source)).kind == "file"
    )


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the images of the table's rows, in their order."""
    file = absolute(subset.source)
    title = shown(base_name(file))
    records = Records(parent(file), title, inside=False, caption_column=subset.caption_column)
    yield from records.items(rows(file, title))
