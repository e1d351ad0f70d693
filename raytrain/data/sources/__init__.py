"""Sources of images, a file each. A source names images and what is known of them; it opens none.

A plug-in has
    recognizes(source: str) -> bool                            whether `format = "auto"` should
                                                               read this source with it
    items(subset: SubsetConfig) -> Iterator[Item | Rejected]   what `subset.source` holds
and may have
    reads(name: str) -> bool                                   whether a file of a folder is a list
                                                               or a shard of the source's, by name
    COLUMNS = True                                             it has columns of captions, of which
                                                               `subset.caption_column` names one
It yields as it reads, in the same order every time, and holds at most one folder's names; a bad
entry is a `Rejected`, a mistake in the source as a whole a `UserError`. It fills in what the
source itself says; what the subset says is added here. What several sources share is in `_shared`.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from raytrain import plugins
from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, child, is_web, look, named, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared import splits, tree
from raytrain.data.sources._shared.seen import Seen
from raytrain.data.sources._shared.unused import Used, unused
from raytrain.errors import UserError

ORDER = (
    "webdataset",
    "kohya",
    "parquet",
    "imagefolder",
    "caption_files",
    "gallery_dl",
    "sd_trainer",
    "table",
    "archive",
    "folder",
)
"""Who is asked whether it recognizes a source: the most specific first."""
SHOWN = 3
"""Entries of a source without images that its error names."""


def every(subsets: Sequence[SubsetConfig], most: int | None = None) -> Iterator[Item | Rejected]:
    """Yield what the sources of all subsets hold, then, as `Rejected` by the rule `unused`, every
    file of theirs that became no image, caption, mask or control and was not refused. With `most`
    only so many, of each source alike, and nothing of what is not used."""
    used = Used()
    each = None if most is None else -(-most // len(subsets))
    for number, subset in enumerate(subsets):
        for found in itertools.islice(items(subset), each):
            used.note(subset.source, found)
            yield found._replace(subset=number) if isinstance(found, Item) else found
    if most is None:
        for subset in subsets:
            yield from _unused(subset, used)


def _unused(subset: SubsetConfig, used: Used) -> Iterator[Rejected]:
    layers = [absolute(folder) for folder in (subset.masks, subset.controls) if folder]
    if tree.top(subset.source) is not None:
        reads = getattr(_format(subset), "reads", lambda _: False)
        yield from unused(absolute(subset.source), subset.source, used, reads, layers)
    for layer in layers:
        for file in unused(layer, layer, used, prefix=f"{shown(base_name(layer))}/"):
            yield file.model_copy(update={"reason": "no image of the source has its stem"})


def _format(subset: SubsetConfig) -> Any:
    name = subset.format if subset.format != "auto" else recognize(subset.source)
    return plugins.load("data.sources", name)


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield what a subset's source holds, with the subset's own settings added; each `path` once.

    Raises:
        UserError: the source is not there, is of no known format, or holds no image.
    """
    name = subset.format if subset.format != "auto" else recognize(subset.source)
    _check_folders(subset)
    plug_in = plugins.load("data.sources", name)
    if subset.caption_column and not getattr(plug_in, "COLUMNS", False):
        raise UserError(
            f"data.caption_column = {subset.caption_column!r} names a column, but "
            f"{subset.source!r}, read as {name!r}, has none. It would have no effect; leave it "
            "out."
        )
    attach, seen = _Attach(subset), Seen()
    refused: list[Rejected] = []
    empty = True
    for found in plug_in.items(subset):
        if isinstance(found, Rejected):
            if len(refused) < SHOWN:
                refused.append(found)
            yield found
        elif not seen.add(found.path):
            yield Rejected(
                path=found.path,
                reason="the source names it twice; the first counts",
                rule="duplicate",
            )
        else:
            empty = False
            yield attach(found)
    if empty:
        raise UserError(
            f"data.source must hold at least one image, but {subset.source!r}, read as {name!r}, "
            "holds none. There is nothing to prepare; correct data.source or data.format, or add "
            f"images.{_reasons(subset, refused)}"
        )


def _reasons(subset: SubsetConfig, refused: list[Rejected]) -> str:
    """Return the first things a source without images holds, and why they are none."""
    used = Used()
    for found in refused:
        used.note(subset.source, found)
    left = itertools.islice(_unused(subset, used), SHOWN - len(refused))
    lines = [f"\n  {found.path}: {found.reason}" for found in (*refused, *left)]
    return f" The first of its entries:{''.join(lines)}" if lines else ""


def recognize(source: str) -> str:
    """Return the name of the plug-in that reads a source; UserError where none does."""
    if not source:
        raise UserError(
            "data.source is empty: preparation needs to know where the images are. Set "
            "data.source."
        )
    if is_web(source):
        raise UserError(
            f"data.source must be on a disk or in an object store, but {source!r} is a web "
            "address. Nothing was fetched; download it, or list the addresses of its images in a "
            "CSV or JSONL file."
        )
    tree.top.cache_clear()
    for name in ORDER:
        if plugins.load("data.sources", name).recognizes(source):
            return name
    found = look(absolute(source))
    reason = (
        "of no known format" if found.kind == "file" else found.reason or "no file and no folder"
    )
    raise UserError(
        f"data.source {source!r} cannot be read: {reason}. There is nothing to prepare; correct "
        f"data.source, or convert it to one of {', '.join(ORDER)}, which data.format may name."
    )


def _check_folders(subset: SubsetConfig) -> None:
    for name, folder in (("masks", subset.masks), ("controls", subset.controls)):
        if folder and look(absolute(folder)).kind != "folder":
            raise UserError(
                f"data.{name} must be a folder with an image of the same stem for each image of "
                f"{subset.source!r}, but {folder!r} is none. No image would get one; correct the "
                "path or leave it out."
            )


class _Attach:
    """Adds what a subset says to each of its items."""

    def __init__(self, subset: SubsetConfig) -> None:
        self.subset = subset
        self.source = f"{base_name(absolute(subset.source))}/"
        self.places = tree.Places()
        self.split = splits.of(subset.source)

    def __call__(self, item: Item) -> Item:
        subset = self.subset
        mask, mask_stamp = (
            self._layer(subset.masks, item.path) if not item.mask else (item.mask, "")
        )
        control, control_stamp = (
            self._layer(subset.controls, item.path) if not item.control else (item.control, "")
        )
        stamps = [stamp for stamp in (item.stamp, mask_stamp, control_stamp) if stamp]
        return item._replace(
            mask=mask,
            control=control,
            repeats=item.repeats * subset.repeats,
            weight=item.weight * subset.weight,
            regularization=item.regularization or subset.regularization,
            prefix=item.prefix or subset.prefix,
            suffix=item.suffix or subset.suffix,
            caption_settings=self._settings(item.caption_settings),
            held_out=item.held_out or self.split(item.path),
            stamp=" ".join(stamps) if item.stamp else "",
        )

    def _settings(self, own: str) -> str:
        """Return what is set for an image's captions, the subset's trigger word included."""
        if not self.subset.trigger:
            return own
        return json.dumps({"trigger": self.subset.trigger, **(json.loads(own) if own else {})})

    def _layer(self, folder: str, path: str) -> tuple[str, str]:
        """Return location and stamp of the image of the same relative stem;
        an archive's own name may be left out."""
        if not folder:
            return "", ""
        for relative in (path, path.removeprefix(self.source)):
            inner, _, name = os.path.splitext(named(relative))[0].rpartition("/")
            place = child(absolute(folder), *inner.split("/")) if inner else absolute(folder)
            found = self.places.of_stem(place, name)
            if found[0]:
                return found
        return "", ""
