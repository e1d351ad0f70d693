"""Formats that `raytrain data convert` writes, one a file: the file's name is its name.

A format module offers
    CARRIES: frozenset[str]     the fields of `Entry` it has a place for, beside path and one
                                caption: "several" captions, "mask", "control", "repeats",
                                "regularization", "prefix", "suffix", "weight"
    INSIDE: bool                whether its images must lie in the folder that is written
    write(entries: Iterable[Entry], output: Output) -> None
`write` is called twice: first with an output that only looks for what would be overwritten. What a
format writes, the source of `raytrain.data.sources` for it reads back equal, which
`tests/data/formats/test_round_trips.py` checks on every file here.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import IO, NamedTuple, Protocol

from raytrain.data.item import Item

DATASET = "dataset.toml"


class Entry(NamedTuple):
    """An image to be written: what its source says, with all captions read, and its file's name
    in the folder where it is copied."""

    item: Item
    name: str
    """Relative, with "/" and the ending of an image."""

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rpartition(".")[0]

    def one_line(self) -> list[str]:
        """Return the captions, each on one line."""
        return [" ".join(text.split()) for text in self.item.captions]


class Output(Protocol):
    """The folder that is written; a path is relative to it."""

    folder: str
    copies: bool
    """Whether images are copied into it."""
    uses: frozenset[str]
    """The fields that any entry has something in."""

    def place(self, entry: Entry) -> str:
        """Return how a list names the entry's image: its path in the folder, where it is copied to
        or lies, else its absolute path or URI."""

    def layer(self, entry: Entry, kind: str) -> str:
        """Return the same of its "mask" or "control"; "" where it has none."""

    def copy(self, location: str, path: str) -> None:
        """Copy the bytes at a location to a path."""

    def beside(self, entry: Entry, ending: str) -> None:
        """Write the entry's caption as a text file next to its image; without a caption see that
        there is none."""

    def text(self, path: str, content: str, why: str = "") -> None:
        """Write a small file; `why` names what it belongs to."""

    def stream(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Write a file piece by piece; it is there when all of it is."""

    def read(self, location: str) -> bytes:
        """Return the bytes at a location; nothing while only looking."""


class Format(Protocol):
    """What a format module offers."""

    CARRIES: frozenset[str]
    INSIDE: bool

    def write(self, entries: Iterable[Entry], output: Output) -> None:
        """Write all entries."""
