"""The address of bytes: a file, and where in it.

Written as text that is valid UTF-8 whatever the name's bytes are.

    location = file [ "#" part ]
    file     = absolute local path            /data/cats/größe.png, with %, # and whatever is no
                                              printable UTF-8 as %XX
             | URI of an object store         s3://bucket/key?endpoint_override=localhost:9000
                                              &scheme=http
             | web address                    https://example.org/cat.jpg
    part     = "range=" offset "+" size                      bytes of the file itself: a member of
                                                             a plain tar
             | "zip=" offset "+" packed "+" size "+" crc     a zip's entry: its header's offset,
                                                             packed and unpacked bytes
             | "unpacked=" offset "+" size                   bytes of the tar that is inside a
                                                             compressed tar
             | "row=" group "+" row "+" column               a cell of a parquet file: row of the
                                                             row group, column with dots

Numbers are decimal; offsets and sizes are bytes. A plain tar's member and a zip's entry are read
in constant time, without the archive's directory. A compressed tar has no such address: whoever
reads it unpacks the whole once (see `raytrain.data.files.fetch`). `s3://` is tested; `gs://` goes
the same way through pyarrow and is untested.
"""

from __future__ import annotations

import os
import re
import stat
from functools import lru_cache
from typing import Literal, NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from pyarrow import fs

from raytrain import storage

UNSAFE = re.compile("[%#\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
HIDDEN = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")
OUTSIDE_URI = re.compile(r"[^A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]")


class Range(NamedTuple):
    """Bytes of the file."""

    offset: int
    size: int


class Zipped(NamedTuple):
    """An entry of a zip: stored when `packed == size`, else deflated."""

    offset: int
    packed: int
    size: int
    crc: int


class Unpacked(NamedTuple):
    """Bytes of what a compressed file unpacks to."""

    offset: int
    size: int


class Cell(NamedTuple):
    """A cell of a parquet file: `row` counts within row group `group`;
    `column` may name a field of a struct with a dot."""

    group: int
    row: int
    column: str


Part = Range | Zipped | Unpacked | Cell
KINDS: dict[str, type[Range] | type[Zipped] | type[Unpacked]] = {
    "range": Range,
    "zip": Zipped,
    "unpacked": Unpacked,
}


class Location(NamedTuple):
    """`file` as the operating system spells it (a local name may hold surrogate escapes),
    or a URI; `part` of it."""

    file: str
    part: Part | None = None


class Found(NamedTuple):
    """What is at a file: `stamp` differs whenever its content may have changed;
    `size` in bytes."""

    kind: Literal["file", "folder", "other", "absent"]
    stamp: str = ""
    size: int = 0
    reason: str = ""


def write(file: str, part: Part | None = None) -> str:
    """Return the text of a location."""
    if is_web(file):
        file = file.partition("#")[0]
    text = UNSAFE.sub(_percent, file) if "://" not in file else UNSAFE.sub(_keep_percent, file)
    match part:
        case None:
            return text
        case Cell(group, row, column):
            return f"{text}#row={group}+{row}+{quote(column, safe='')}"
        case _:
            name = next(name for name, kind in KINDS.items() if isinstance(part, kind))
            return f"{text}#{name}={'+'.join(map(str, part))}"


def parse(text: str) -> Location:
    """Return what a location's text says; ValueError for text that is none."""
    file, mark, inner = text.partition("#")
    if "://" not in file:
        file = os.fsdecode(unquote_to_bytes(file))
    if not mark:
        return Location(file)
    kind, _, values = inner.partition("=")
    fields = values.split("+")
    try:
        if kind == "row":
            group, row, column = fields
            return Location(file, Cell(int(group), int(row), unquote(column)))
        return Location(file, KINDS[kind](*map(int, fields)))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"not a location: {text!r}") from None


def is_web(file: str) -> bool:
    """Tell whether a file is read over HTTP."""
    return file[:8].lower().startswith(("http://", "https://"))


def absolute(source: str) -> str:
    """Return a source's path or URI as the `file` of a location: absolute,
    or with what no URI may hold as %XX."""
    if source.startswith("file://"):
        return os.path.abspath(source.removeprefix("file://"))
    if "://" in source:
        return OUTSIDE_URI.sub(lambda match: quote(match[0]), source)
    return os.path.abspath(source)


def child(folder: str, *names: str) -> str:
    """Return the file of that name (or below those names) in a folder; a URI keeps its query."""
    if "://" not in folder:
        return os.path.join(folder, *names)
    return storage.join(folder, *(quote(name, safe="/") for name in names))


def parent(file: str) -> str:
    """Return the folder a file is in; a URI keeps its query."""
    if "://" not in file:
        return os.path.dirname(file)
    address, mark, query = file.partition("?")
    return address.rpartition("/")[0] + mark + query


def base_name(file: str) -> str:
    """Return a file's own name, as the store spells it."""
    if "://" not in file:
        return os.path.basename(file)
    return unquote(file.partition("?")[0].rstrip("/").rpartition("/")[2])


def shown(name: str) -> str:
    r"""Return a name for display, always one to one: a backslash and what is no printable
    UTF-8 become \xNN."""
    return HIDDEN.sub(
        lambda match: "".join(f"\\x{byte:02x}" for byte in os.fsencode(match[0])), name
    )


def named(text: str) -> str:
    """Return the name that `shown` made a text of."""
    return os.fsdecode(ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text)))


def store(file: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a file (made once for each store of a process)
    and the path in it."""
    if "://" not in file:
        return fs.LocalFileSystem(), file
    address, mark, query = file.partition("?")
    scheme, _, path = address.partition("://")
    bucket, _, key = path.partition("/")
    filesystem, root = _filesystem(f"{scheme}://{bucket}{mark}{query}")
    return filesystem, "/".join(part for part in (root.rstrip("/"), unquote(key)) if part)


@lru_cache(32)
def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    return storage.resolve(uri)


def look(file: str) -> Found:
    """Say what is at a local file (links are followed) or in an object store;
    nothing is opened."""
    if "://" in file:
        filesystem, path = store(file)
        return of_info(filesystem.get_file_info(path))
    try:
        status = os.stat(file)
    except (OSError, ValueError) as error:
        return Found("absent", reason=getattr(error, "strerror", None) or str(error))
    if stat.S_ISDIR(status.st_mode):
        return Found("folder", f"{status.st_dev}.{status.st_ino}")
    stamp = f"{status.st_size}.{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_ino}"
    return Found("file" if stat.S_ISREG(status.st_mode) else "other", stamp, status.st_size)


def of_info(info: fs.FileInfo) -> Found:
    """Return what an object store says of a file. pyarrow hides the ETag:
    size and time of change make the stamp."""
    if info.type == fs.FileType.File:
        return Found("file", f"{info.size}.{info.mtime_ns}", info.size)
    if info.type == fs.FileType.Directory:
        return Found("folder")
    return Found("absent", reason="No such object")


def _percent(match: re.Match[str]) -> str:
    return quote(os.fsencode(match[0]), safe="")


def _keep_percent(match: re.Match[str]) -> str:
    return match[0] if match[0] == "%" else _percent(match)
