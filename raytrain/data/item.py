"""What a source yields: one image and what is known of it before anything is opened,
or one fault."""

from __future__ import annotations

from typing import NamedTuple

from raytrain.table import Table

UNUSED = "unused"
"""The rule of a `Rejected` that is a file nothing reads."""


class Item(NamedTuple):
    """One image of a source. All text is valid UTF-8, whatever the file system holds."""

    path: str
    """Unique in its source, shown to people: relative path, or `archive.tar/inner.png`."""
    location: str
    """What `raytrain.data.files.fetch.Fetcher.read` needs to find the bytes."""
    captions: tuple[str, ...] = ()
    """Captions the source itself holds, raw."""
    caption_file: str = ""
    """Location of a text file with the caption; read when the image is scanned."""
    mask: str = ""
    control: str = ""
    """Locations of a hand-made mask and a control image."""
    repeats: int = 1
    weight: float = 1.0
    regularization: bool = False
    prefix: str = ""
    suffix: str = ""
    held_out: bool = False
    """Of a split that the source itself sets aside from training."""
    caption_settings: str = ""
    """Fields of [data.captions] that the source or its subset sets for this image, as JSON;
    `variants` above 1 stands for several, whose number [data.captions] may set."""
    site: str = ""
    """What an image site says of it, as JSON: `score`, `rating` and `meta`, a list of tags."""
    subset: int = 0
    """Which of [[data.subsets]] it is of."""
    stamp: str = ""
    """Differs whenever the bytes behind the location (or its caption, mask, control) may have
    changed, such as size, inode and times of change; an unchanged stamp lets preparation skip
    reading. Empty: always read."""


class Rejected(Table):
    """Something of the source that is not in the dataset, and why."""

    path: str
    reason: str
    rule: str = "broken"
    """`broken` for what cannot be used; otherwise the filter that left it out: `duplicate`,
    `near_duplicate`, `size`, ..."""
    key: str = ""
    """The content address, where the same bytes would be rejected again for the same reason."""
