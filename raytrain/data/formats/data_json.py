"""`data.json`: a list of {"image", "text"}, with "mask" and "conditioning_image" where there are
such (simple-SD-trainer, diffusers). An image of several captions has a record for each."""

from __future__ import annotations

from collections.abc import Iterable

from raytrain.data.formats import Entry, Output
from raytrain.data.formats._json import dump

CARRIES, INSIDE = frozenset(("several", "mask", "control")), False


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `data.json`, a record a line."""
    with output.stream("data.json") as file:
        mark = b"[\n"
        for entry in entries:
            layers = {"mask": output.layer(entry, "mask"),
                      "conditioning_image": output.layer(entry, "control")}  # fmt: skip
            named = {key: path for key, path in layers.items() if path}
            for text in entry.item.captions or ("",):
                file.write(mark + dump({"image": output.place(entry), "text": text, **named}))
                mark = b",\n"
        file.write(b"[]\n" if mark == b"[\n" else b"\n]\n")
