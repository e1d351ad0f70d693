"""The Hugging Face `imagefolder`: images in folders, with `metadata.jsonl`,
`.csv`, `.tsv` or `.parquet` next to or above them.

Its rows have `file_name`, relative to the metadata file, and `text` (or caption, prompt). Splits
are folders, each with its own metadata or none. Images that no row names are taken too, with the
text file next to them. Paths that lead out are refused. `auto` sees metadata in the source itself
and in the folders directly in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.records import described
from raytrain.data.sources._shared.tree import below, top

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.tsv", "metadata.parquet")
COLUMNS = True


def recognizes(source: str) -> bool:
    """Tell whether the source is a folder with metadata in it or in one of its first folders."""
    names = top(source)
    return names is not None and any(reads(name) for name in (*names[0], *below(source, names[1])))


def reads(name: str) -> bool:
    """Tell whether a file of the folder is such a list."""
    return name in NAMES


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the images that metadata names, then the others."""
    skip = [absolute(folder) for folder in (subset.masks, subset.controls) if folder]
    return described(absolute(subset.source), reads, skip, caption_column=subset.caption_column)
