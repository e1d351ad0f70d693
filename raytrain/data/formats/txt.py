"""A text file `.txt` for each caption, next to its image or in a tree of the same shape."""

from __future__ import annotations

from collections.abc import Iterable

from raytrain.data.formats import Entry, Output

CARRIES: frozenset[str] = frozenset()
INSIDE = False


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `<stem>.txt`, one caption; an image without a caption has none."""
    for entry in entries:
        output.beside(entry, ".txt")
