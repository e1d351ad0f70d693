"""sd-scripts' metadata JSON, {path: {"caption"}}, and a dataset config (TOML) that names it: a
subset for each number of repeats, prefix and suffix.

Several captions are lines, which `enable_wildcard` has drawn from. Paths are absolute where images
stay where they are. Regularization images and masks have no place in it: see `kohya_folders`.
Source: sd-scripts' docs/config_README-en.md, finetune/merge_captions_to_metadata.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import IO, Any

from raytrain.data.files.location import absolute
from raytrain.data.formats import Entry, Output, _toml
from raytrain.data.formats._json import dump

CARRIES, INSIDE = frozenset(("several", "repeats", "prefix", "suffix")), False


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `metadata.json`, `metadata-2.json` and so on, and `dataset.toml`."""
    folder, wildcard = absolute(output.folder), "several" in output.uses
    files: dict[tuple[Any, ...], IO[bytes]] = {}
    subsets: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        for entry in entries:
            said = {key: each for key, each in _toml.settings(entry).items() if key != "is_reg"}
            group = tuple(said.items())
            if group not in files:
                name = f"metadata-{len(files) + 1}.json" if files else "metadata.json"
                files[group] = stack.enter_context(output.stream(name))
                metadata = f"{folder}/{name}"
                subsets.append({"image_dir": folder, "metadata_file": metadata, **said})
                files[group].write(b"{\n")
            else:
                files[group].write(b",\n")
            record = {"caption": _toml.text(entry, wildcard)}
            files[group].write(dump(output.place(entry)) + b": " + dump(record))
        for file in files.values():
            file.write(b"\n}\n")
    for subset in subsets if wildcard else ():
        subset["enable_wildcard"] = True
    _toml.write(output, [subsets])
