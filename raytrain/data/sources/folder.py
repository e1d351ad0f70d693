"""A folder of images and all folders below it, on a disk or in an object store.

An image's caption is the text file next to it of the same stem, `cat.txt`, else `cat.caption`,
else of its whole name, `cat.png.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.tree import images, top


def recognizes(source: str) -> bool:
    """Tell whether the source is a folder."""
    return top(source) is not None


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the folder's images; its folders of masks and control images are left out."""
    return images(
        absolute(subset.source),
        [absolute(folder) for folder in (subset.masks, subset.controls) if folder],
    )
