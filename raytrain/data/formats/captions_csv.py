"""`captions.csv`: image_path, mask_path, control_path, caption (Eden's, with a column for control
images). An image of several captions has a row for each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from raytrain.data.formats import Entry, Output

CARRIES, INSIDE = frozenset(("several", "mask", "control")), False
COLUMNS = ("image_path", "mask_path", "control_path", "caption")


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `captions.csv`; a name's bytes stay as they are."""
    with output.stream("captions.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        table = csv.writer(text, lineterminator="\n")
        table.writerow(COLUMNS)
        for entry in entries:
            place, layers = (
                output.place(entry),
                [output.layer(entry, kind) for kind in ("mask", "control")],
            )
            for caption in entry.item.captions or ("",):
                table.writerow((place, *layers, caption))
        text.detach()
