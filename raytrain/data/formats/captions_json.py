"""`captions.json`: {path: caption}, a list where an image has several captions."""

from __future__ import annotations

from collections.abc import Iterable

from raytrain.data.formats import Entry, Output
from raytrain.data.formats._json import dump

CARRIES, INSIDE = frozenset(("several",)), False


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `captions.json`, an image a line."""
    with output.stream("captions.json") as file:
        mark = b"{\n"
        for entry in entries:
            texts = entry.item.captions
            content = list(texts) if len(texts) > 1 else "".join(texts)
            file.write(mark + dump(output.place(entry)) + b": " + dump(content))
            mark = b",\n"
        file.write(b"{}\n" if mark == b"{\n" else b"\n}\n")
