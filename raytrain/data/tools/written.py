"""The folder that a conversion writes: each file is compared with what is there first."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from typing import IO, cast
from urllib.parse import unquote

from raytrain import storage
from raytrain.data.files.fetch import Fetcher
from raytrain.data.files.location import Location, absolute, parse
from raytrain.data.formats import Entry
from raytrain.errors import UserError

SHOWN = 5
"""So many files that would be overwritten are named."""


class Written:
    """An `Output` (see `raytrain.data.formats`); while `looking`, nothing is written."""

    def __init__(
        self,
        folder: str,
        next_to_images: bool,
        copies: bool,
        overwrite: bool,
        fetcher: Fetcher,
        uses: frozenset[str],
        inside: bool,
    ) -> None:
        self.folder, self.next_to_images, self.copies = folder, next_to_images, copies
        self.overwrite, self.fetcher, self.uses, self.inside = overwrite, fetcher, uses, inside
        self.looking = True
        self.conflicts: list[str] = []
        self.texts: dict[str, tuple[bytes, str]] = {}

    def place(self, entry: Entry) -> str:
        """Return how a list names the entry's image, and copy it where images are copied."""
        return self._place(entry.item.location, entry.name, entry)

    def layer(self, entry: Entry, kind: str) -> str:
        """Return how a list names the entry's mask or control image; "" without one."""
        location = entry.item.mask if kind == "mask" else entry.item.control
        if not location:
            return ""
        ending = os.path.splitext(parse(location).file)[1] or ".png"
        folder = {"mask": "masks", "control": "conditioning"}[kind]
        return self._place(location, f"{folder}/{entry.stem}{ending}", entry)

    def _place(self, location: str, path: str, entry: Entry) -> str:
        if self.copies:
            self.copy(location, path)
            return path
        found = parse(location)
        relative = self._relative(found)
        if relative:
            return relative
        if found.part is not None or self.inside:
            why = "is in an archive or a table" if found.part else "lies elsewhere"
            raise UserError(
                f"This format must name a file{' of its own folder' if self.inside else ''} for "
                f"each image, but that of {entry.item.path!r} {why}. Nothing was written. Give "
                "--copy, which copies the images into OUTPUT."
            )
        return found.file

    def _relative(self, found: Location) -> str:
        """Return the path of a file that is in the folder; "" for any other."""
        root = absolute(self.folder).partition("?")[0].rstrip("/") + "/"
        remote = "://" in found.file
        file = found.file.partition("?")[0] if remote else found.file
        if found.part is not None or not file.startswith(root):
            return ""
        return unquote(file.removeprefix(root)) if remote else file.removeprefix(root)

    def copy(self, location: str, path: str) -> None:
        """Copy the bytes at a location; what is there and equal stays."""
        target = storage.join(self.folder, path)
        there = storage.exists(target)
        if self.looking and not there:
            return
        content = self.fetcher.read(location)
        if there and storage.read_bytes(target) == content:
            return
        self._write(target, content)

    def beside(self, entry: Entry, ending: str) -> None:
        """Write the entry's caption next to its image, or to the same path in the folder."""
        path = f"{entry.stem}{ending}"
        if self.next_to_images:
            found = parse(entry.item.location)
            if found.part is not None or found.file[:4].lower() == "http":
                raise UserError(
                    f"A text file cannot be written next to {entry.item.path!r}, which is "
                    "no file of a folder. Nothing was written; give OUTPUT."
                )
            path = os.path.splitext(found.file)[0] + ending
        elif self.copies:
            self.copy(entry.item.location, entry.name)
        self.text(path, "\n".join(entry.item.captions), entry.item.path)

    def text(self, path: str, content: str, why: str = "") -> None:
        """Write a small file; an empty one is left out. `why` names what it belongs to."""
        target = path if os.path.isabs(path) or "://" in path else storage.join(self.folder, path)
        encoded = content.encode(errors="surrogateescape")
        digest = hashlib.sha256(encoded).digest()
        before, whose = self.texts.setdefault(target, (digest, why))
        if before != digest:
            raise UserError(
                f"{whose!r} and {why!r} share the text file {target!r}, but not the caption; one "
                "would get the other's. Nothing was written. Rename one of the images, or choose "
                "a format with one list, such as captions_json."
            )
        there = storage.read_bytes(target) if storage.exists(target) else None
        if there == (encoded or None):
            return
        if there is not None and there.strip() == encoded.strip():
            return  # a caption ends in a line's end or not
        if encoded:
            self._write(target, encoded)
        elif self._may(target):
            storage.remove(target)

    @contextlib.contextmanager
    def stream(self, path: str) -> Iterator[IO[bytes]]:
        """Write a file piece by piece."""
        target = storage.join(self.folder, path)
        if self.looking:
            self._check(target)
            yield cast(IO[bytes], _Nothing())
            return
        with storage.atomic(target) as temporary, open(temporary, "wb") as file:
            yield file

    def read(self, location: str) -> bytes:
        """Return the bytes at a location; nothing while only looking."""
        return b"" if self.looking else self.fetcher.read(location)

    def refuse(self) -> None:
        """Raise UserError where something would be overwritten."""
        if self.conflicts:
            more = len(self.conflicts) - SHOWN
            raise UserError(
                f"{len(self.conflicts)} files are there already with other content: "
                f"{', '.join(map(repr, self.conflicts[:SHOWN]))}"
                f"{f' and {more} more' if more > 0 else ''}. Nothing was written. Choose another "
                "OUTPUT, or give --overwrite."
            )

    def _write(self, target: str, content: bytes) -> None:
        if self._may(target):
            storage.write_bytes(target, content)

    def _may(self, target: str) -> bool:
        self._check(target)
        return not self.looking

    def _check(self, target: str) -> None:
        if self.looking and not self.overwrite and storage.exists(target):
            self.conflicts.append(target)


class _Nothing(io.RawIOBase):
    """A file that forgets what is written."""

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        return len(content)  # type: ignore[arg-type]
