"""A folder that laksjdjf/sd-trainer prepared: latents, captions and masks, without the images.

latents/<stem>.npy      unscaled latents (C, h, w)
captions/<stem>.caption
mask/<stem>.npz         a mask at latent size, with data.masks.kind = "folder"

Its buckets.json only says again which size each file has. Its folders `control` and `pfg`, and its
cached texts, are not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, child, look, shown, write
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.tree import Folder, open_folder, top, why_no_file
from raytrain.errors import UserError

READ = ("latents", "captions", "mask")


def recognizes(source: str) -> bool:
    """Tell whether the source is a folder with latents and the list of buckets."""
    names = top(source)
    return names is not None and "latents" in names[1] and any(map(reads, names[0]))


def reads(name: str) -> bool:
    """Tell whether a file is the list of buckets."""
    return name == "buckets.json"


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the latents, each with its caption and mask."""
    root = absolute(subset.source)
    whole = open_folder(root)
    if "latents" not in whole.folders:
        raise UserError(
            f"data.source {subset.source!r}, read as 'sd_trainer', must hold a folder `latents`, "
            f"but holds {', '.join(whole.folders) or 'no folder'}. There is nothing to prepare; "
            "name the folder that its `latents` is in."
        )
    captions, masks = (
        open_folder(child(root, name)) if name in whole.folders else None for name in READ[1:]
    )
    latents = open_folder(child(root, "latents"))
    for name in latents.files:
        stem, ending = os.path.splitext(name)
        found = latents.look(name)
        if ending != ".npy" or found.kind != "file":
            reason = why_no_file(found) if found.kind != "file" else "no npy of latents"
            yield Rejected(path=shown(f"latents/{name}"), reason=reason)
            continue
        text = captions.sidecar(stem, (".caption", ".txt")) if captions else ""
        item = Item(f"latents/{shown(name)}", write(child(latents.file, name)), stamp=found.stamp)
        if captions and text:
            item = item._replace(
                caption_file=write(child(captions.file, text)),
                stamp=f"{item.stamp} {captions.look(text).stamp}",
            )
        yield _with_mask(item, masks, f"{stem}.npz")


def _with_mask(item: Item, masks: Folder | None, name: str) -> Item:
    if masks is None or name not in masks.files or look(child(masks.file, name)).kind != "file":
        return item
    stamp = f"{item.stamp} {masks.look(name).stamp}"
    return item._replace(mask=write(child(masks.file, name)), stamp=stamp)
