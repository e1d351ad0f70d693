"""Find the pictures of a folder and where their captions are. Opens no picture.

Pictures are found recursively by extension, in order of their path. A picture's caption is the first of
1. the text file beside it with the same stem, `cat.txt`, then `cat.caption`;
2. its line in the `metadata.jsonl` of its folder, or of the nearest folder above that names it:
   {"file_name": "cat.png", "text": "a cat"} (or "caption"), with file_name relative to the metadata file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from pyarrow import fs

from raytrain import storage
from raytrain.config import Table
from raytrain.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SIDECARS = (".txt", ".caption")
METADATA = "metadata.jsonl"


class Found(NamedTuple):
    """One picture file; `caption_file` (a sidecar) and `caption` (of metadata.jsonl) are empty where there is none."""

    path: str
    caption_file: str
    caption: str


class Rejected(Table):
    """Something of the source that is not in the dataset, and why. `path` is relative to the source."""

    path: str
    reason: str
    key: str = ""
    """The latent's content address, where the same bytes would be rejected again for the same reason."""


def scan(source: str) -> tuple[list[Found], list[Rejected]]:
    """Return the pictures below a folder or URI, sorted by path, and what was wrong with its metadata files."""
    if not source:
        raise UserError("data.source is empty: preparation needs the folder with the pictures. Set data.source.")
    paths = sorted(_walk(source))
    pictures = [path for path in paths if os.path.splitext(path)[1].lower() in EXTENSIONS]
    if not pictures:
        raise UserError(
            f"data.source must hold at least one picture ({', '.join(e[1:] for e in EXTENSIONS)}), but {source!r} "
            f"holds {len(paths)} files and none of these. There is nothing to prepare; correct data.source or add some."
        )
    present = set(paths)
    captions: dict[str, str] = {}
    rejected: list[Rejected] = []
    metadata = [path for path in paths if path.rpartition("/")[2] == METADATA]
    for path in sorted(metadata, key=lambda path: path.count("/")):  # nearer files speak later and win
        entries, faults = _read_metadata(source, path, present)
        captions |= entries
        rejected += faults
    return [Found(path, _sidecar(path, present), captions.get(path, "")) for path in pictures], rejected


def clean(text: str) -> str:
    """Return a caption on one line: white space at the ends removed, runs of it made one space."""
    return " ".join(text.split())


def _sidecar(path: str, present: set[str]) -> str:
    stem = os.path.splitext(path)[0]
    return next((stem + end for end in SIDECARS if stem + end in present), "")


def _walk(source: str) -> Iterator[str]:
    """Yield the paths of all visible files, relative to the source; names that start with a dot are skipped."""
    filesystem, root = storage.resolve(source)
    if filesystem.get_file_info(root).type != fs.FileType.Directory:
        raise UserError(
            f"data.source must be a folder with pictures, but {source!r} is not there (or is a file). "
            "There is nothing to prepare; correct data.source."
        )
    if storage.is_local(source):
        yield from _walk_local(root)
        return
    for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
        relative = info.path.removeprefix(root).lstrip("/")
        if info.type == fs.FileType.File and not any(part.startswith(".") for part in relative.split("/")):
            yield relative


def _walk_local(root: str) -> Iterator[str]:
    """Follow links to folders, but enter no folder twice, so that a loop of links ends."""
    seen = {os.path.realpath(root)}
    for folder, children, files in os.walk(root, followlinks=True):
        enter = []
        for name in sorted(children):
            real = os.path.realpath(os.path.join(folder, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                enter.append(name)
        children[:] = enter
        below = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith("."):
                yield name if below == "." else f"{below}/{name}".replace(os.sep, "/")


def _read_metadata(source: str, path: str, present: set[str]) -> tuple[dict[str, str], list[Rejected]]:
    folder = path.removesuffix(METADATA)
    captions: dict[str, str] = {}
    rejected: list[Rejected] = []
    for number, line in _lines(storage.read_bytes(storage.join(source, path))):
        try:
            name, caption = _entry(line)
            if folder + name not in present:
                raise ValueError(f"file_name {name!r} is not there")
            captions[folder + name] = clean(caption)
        except ValueError as error:
            rejected.append(Rejected(path=path, reason=f"line {number}: {error}"))
    return captions, rejected


def _lines(content: bytes) -> Iterable[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(content.split(b"\n"), 1) if line.strip()]


def _entry(line: bytes) -> tuple[str, str]:
    try:
        entry: Any = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # broken JSON or no UTF-8
        raise ValueError(f"no valid JSON: {error}") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise ValueError('needs an object with "file_name" and "text" (or "caption")')
    caption = entry.get("text", entry.get("caption"))
    if not isinstance(caption, str):
        raise ValueError('"text" (or "caption") is missing or no text')
    return os.path.normpath(entry["file_name"]).replace(os.sep, "/"), caption
