"""sd-scripts' folders: copies of the images with `.txt` files, a folder for each number of
repeats, prefix, suffix and role, masks or control images beside them, and the dataset config
(TOML) that names all.

Source: sd-scripts' docs/config_README-en.md. A subset has one folder of conditioning images: the
mask of an image is written, else its control image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from raytrain.data.files.location import absolute, base_name, parse, shown
from raytrain.data.formats import Entry, Output, _toml
from raytrain.data.sources._shared.seen import Seen

CARRIES = frozenset(
    ("several", "mask", "control", "repeats", "regularization", "prefix", "suffix")
)
INSIDE = True


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `images-1/`, `images-1-conditioning/`, `images-2/` and so on, and `dataset.toml`."""
    root, wildcard, seen = absolute(output.folder), "several" in output.uses, Seen()
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for entry in entries:
        said, layer = _toml.settings(entry), entry.item.mask or entry.item.control
        subset = groups.setdefault((bool(layer), *said.items()), {})
        if not subset:
            name = f"images-{len(groups)}"
            subset |= {"image_dir": f"{root}/{name}", **said, "caption_extension": ".txt"}
            if layer:
                subset["conditioning_data_dir"] = f"{root}/{name}-conditioning"
            if wildcard:
                subset["enable_wildcard"] = True
        folder = base_name(subset["image_dir"])
        stem, number, ending = entry.stem.replace("/", "_"), 1, os.path.splitext(entry.name)[1]
        while not seen.add(
            f"{folder}/{shown(stem)}"
        ):  # folders are flat, and a text file is by the stem
            number += 1
            stem = f"{entry.stem.replace('/', '_')}-{number}"
        output.copy(entry.item.location, f"{folder}/{stem}{ending}")
        if entry.item.captions:
            output.text(f"{folder}/{stem}.txt", _toml.text(entry, wildcard))
        if layer:
            other = os.path.splitext(parse(layer).file)[1] or ".png"
            output.copy(layer, f"{folder}-conditioning/{stem}{other}")
    both = [[each for key, each in groups.items() if key[0] == layer] for layer in (False, True)]
    _toml.write(output, both)
