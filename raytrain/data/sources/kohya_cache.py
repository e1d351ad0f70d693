"""A folder in which sd-scripts has cached latents (`cache_latents_to_disk`): an npz an image.

`cat_1024x0768_sdxl.npz` stands for `cat.png`, which is not opened and need not be there;
`cat.npz` is its older form. Captions are the text files of the image's stem. Images without a
cached file are taken as they are. Named by `data.format` alone: `auto` encodes images anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, child, shown, write
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.tree import Folder, image, is_image, walk, why_no_file

_CACHED = re.compile(r"(?P<stem>.+?)(?:_\d{4,}x\d{4,}_(?:sd|sdxl))?\.npz")
_TEXTS = "_te_outputs.npz"
"""How names of cached text encoders' outputs end, which are not read."""


def recognizes(source: str) -> bool:
    """Tell that no source is taken for one unasked."""
    return False


def reads(name: str) -> bool:
    """Tell whether a file has its part in the dataset: an image does, itself or by its cache."""
    return is_image(name)


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the cached latents, then the images that have none, folder by folder."""
    skip = [absolute(folder) for folder in (subset.masks, subset.controls) if folder]
    for folder in walk(absolute(subset.source), skip):
        if isinstance(folder, Rejected):
            yield folder
            continue
        cached = {
            name: found["stem"]
            for name in folder.files
            if not name.endswith(_TEXTS) and (found := _CACHED.fullmatch(name))
        }
        for name, stem in cached.items():
            yield latents(folder, name, stem)
        stems = set(cached.values())
        for name in folder.files:
            if is_image(name) and os.path.splitext(name)[0] not in stems:
                yield from image(folder, name)


def latents(folder: Folder, name: str, stem: str) -> Item | Rejected:
    """Return the item of a file of latents, with the caption of a stem next to it."""
    path, found = shown(folder.relative + name), folder.look(name)
    text, stamp = folder.sidecar(stem), found.stamp
    sidecar = folder.look(text) if text else found
    if found.kind != "file" or sidecar.kind != "file":
        return Rejected(path=path, reason=why_no_file(found if found.kind != "file" else sidecar))
    place = write(child(folder.file, text)) if text else ""
    stamp = f"{stamp} {sidecar.stamp}" if text else stamp
    return Item(path, write(child(folder.file, name)), caption_file=place, stamp=stamp)
