"""The files of a source that became no image, caption, mask or control: named, not passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from functools import cached_property

from raytrain.data.files.location import child, shown, write
from raytrain.data.item import UNUSED, Item, Rejected
from raytrain.data.sources._shared.seen import Seen
from raytrain.data.sources._shared.tree import (
    SIDECARS,
    Folder,
    is_image,
    key,
    open_folder,
    walk,
)


class Used:
    """What was read of the sources so far, and what was refused with a reason; on disk."""

    def __init__(self) -> None:
        self._seen = Seen()

    def note(self, source: str, found: Item | Rejected) -> None:
        """Add the files of an item, or what a source's refusal names."""
        if isinstance(found, Rejected):
            self._seen.add(f"refused {source} {found.path}")
            return
        for place in (found.location, found.caption_file, found.mask, found.control):
            if place:
                self._seen.add(place.partition("#")[0])

    def refused(self, source: str, path: str) -> bool:
        """Tell whether a source refused what is shown as `path`."""
        return f"refused {source} {path}" in self._seen

    def read(self, file: str) -> bool:
        """Tell whether a file was used."""
        return write(file) in self._seen

    def new(self, source: str, path: str, file: str) -> bool:
        """Tell whether a file, shown as `path`, was neither used nor refused nor asked for
        before."""
        if self.refused(source, path) or self.read(file):
            return False
        return self._seen.add(f"named {write(file)}")


def unused(
    root: str,
    source: str,
    used: Used,
    reads: Callable[[str], bool] = lambda _: False,
    skip: Collection[str] = (),
    prefix: str = "",
    deep: bool = True,
) -> Iterator[Rejected]:
    """Yield the visible files of a folder (and of all below it when `deep`) that nothing used,
    their paths after `prefix`; `reads` tells by its name whether a file is a list or a shard."""
    for folder in walk(root, skip) if deep else [open_folder(root)]:
        if isinstance(folder, Rejected):
            continue  # the source itself yields it
        images = _Images(folder)
        for name in folder.files:
            path = prefix + shown(folder.relative + name)
            if reads(name) or not used.new(source, path, child(folder.file, name)):
                continue
            image = images.of(name)
            if image and used.refused(source, prefix + shown(folder.relative + image)):
                continue
            if image and not used.read(child(folder.file, image)):
                reason = f"the text of {shown(image)}, which this format does not read"
            else:
                reason = _why(images, name, image)
            yield Rejected(path=path, reason=reason, rule=UNUSED)


class _Images:
    """The images of a folder by their stems, listed when first asked for."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    @cached_property
    def _stems(self) -> dict[str, str]:
        names = filter(is_image, reversed(self._folder.files))
        return {key(os.path.splitext(name)[0]): name for name in names}

    @cached_property
    def _folded(self) -> dict[str, str]:
        return {stem.casefold(): name for stem, name in self._stems.items()}

    def of(self, name: str) -> str:
        """Return the image that a text is named like; "" for none."""
        stem, extension = os.path.splitext(name)
        return self._stems.get(key(stem), "") if extension.lower() in SIDECARS else ""

    def near(self, name: str) -> str:
        """Return the image that a text is named like but for upper and lower case."""
        return self._folded.get(key(os.path.splitext(name)[0]).casefold(), "")


def _why(images: _Images, name: str, image: str) -> str:
    """Say why a file of a folder is not used; `image` is the one that a text is named like."""
    if is_image(name):
        return "an image where this format reads none"
    if not name.lower().endswith(SIDECARS):
        return "neither an image nor a caption"
    if image:
        return f"the caption of {shown(image)} is another file"
    if other := images.near(name):
        return f"no image has this stem; {shown(other)} differs in upper and lower case"
    return "a text, but no image has its stem"
