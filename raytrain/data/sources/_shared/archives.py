"""The members of zips and tars, one after another, as addresses: nothing is unpacked to disk,
nothing unsafe is named."""

from __future__ import annotations

import gzip
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple, Self

from raytrain.data.files import stream
from raytrain.data.files.location import Part, Range, Unpacked, Zipped, look, shown
from raytrain.data.item import Rejected
from raytrain.data.sources._shared.tree import is_visible
from raytrain.errors import UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    stream.TooLargeError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
)


class Member(NamedTuple):
    """A regular file in an archive; `read(limit)` gives its first bytes,
    until the next member is asked for."""

    name: str
    part: Part
    read: Callable[[int], bytes]


def is_archive(name: str) -> bool:
    """Tell by its name whether a file should be an archive."""
    return name.lower().endswith(ENDINGS)


def members(file: str, title: str, wanted: Callable[[str], bool]) -> Iterator[Member | Rejected]:
    """Yield the wanted members of an archive in its order, and why others are refused;
    `title` is the archive's shown name.

    A zip's directory is held in memory (about 0.5 GB for a million entries); a tar's is not. A
    compressed tar is unpacked while it is listed, within the limits of
    `raytrain.data.files.stream`.
    """
    try:
        with stream.open_binary(file) as opened:
            head = opened.read(6)
            opened.seek(0)
            if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
                found = _zip(opened, wanted)
            elif stream.packing(head):
                found = _tar(stream.unpacked(opened), Unpacked, wanted)
            else:
                found = _tar(opened, Range, wanted)
            for member in found:
                yield (
                    Rejected(path=f"{title}/{member.path}", reason=member.reason)
                    if isinstance(member, Rejected)
                    else member
                )
    except DAMAGE as error:
        if "://" in file and type(error) is OSError and look(file).kind == "file":
            raise UserError(
                f"Reading the archive {file!r} failed: {error}. Run the same command again."
            ) from error
        reason = (
            "not there"
            if isinstance(error, FileNotFoundError)
            else f"damaged archive, not read further: {error}"
        )
        yield Rejected(path=title, reason=reason)


def _zip(opened: IO[bytes], wanted: Callable[[str], bool]) -> Iterator[Member | Rejected]:
    archive, total = zipfile.ZipFile(opened), 0
    size = opened.seek(0, 2)
    for entry in archive.infolist():
        name = _plain(entry.filename)
        if entry.is_dir() or not _is_wanted(name, wanted):
            continue
        total += entry.file_size
        if reason := _unsafe(entry.filename) or _why_not_entry(entry):
            yield Rejected(path=shown(name), reason=reason)
        elif total > stream.limit(size):
            yield Rejected(
                path=shown(name),
                reason=f"the archive unpacks to more than {stream.limit(size)} bytes",
            )
        else:
            part = Zipped(entry.header_offset, entry.compress_size, entry.file_size, entry.CRC)
            yield Member(name, part, lambda most, entry=entry: _read_entry(archive, entry, most))  # type: ignore[misc]


def _why_not_entry(entry: zipfile.ZipInfo) -> str:
    if stat.S_ISLNK(entry.external_attr >> 16):
        return "a link; put the file itself into the archive"
    if entry.flag_bits & 1:
        return "encrypted; unpack the archive with its password"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed by method {entry.compress_type}; pack with deflate, or unpack the archive"
    if entry.file_size > stream.limit(entry.compress_size):
        return (
            f"unpacks to {entry.file_size} bytes, more than {stream.limit(entry.compress_size)} "
            "allowed"
        )
    return ""


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    with archive.open(entry) as opened:
        return opened.read(most)


def _tar(
    opened: IO[bytes], kind: type[Range] | type[Unpacked], wanted: Callable[[str], bool]
) -> Iterator[Member | Rejected]:
    archive = tarfile.open(  # noqa: SIM115 - closed with the stream under it
        fileobj=opened, mode="r|" if kind is Unpacked else "r:", tarinfo=_Header
    )
    while entry := archive.next():
        archive.members = []  # type: ignore[attr-defined]  # else every entry would stay in memory
        name = _plain(entry.name)
        if entry.isdir() or not _is_wanted(name, wanted):
            continue
        if reason := _unsafe(entry.name) or _why_not_member(entry):
            yield Rejected(path=shown(name), reason=reason)
        else:
            part = kind(entry.offset_data, entry.size)
            yield Member(name, part, lambda most, entry=entry: _read_member(archive, entry, most))  # type: ignore[misc]


def _why_not_member(entry: tarfile.TarInfo) -> str:
    if entry.issym() or entry.islnk():
        return "a link; put the file itself into the archive"
    if entry.issparse():
        return "a sparse file; pack it whole"
    return "" if entry.isreg() else "not a regular file (a pipe or device)"


def _read_member(archive: tarfile.TarFile, entry: tarfile.TarInfo, most: int) -> bytes:
    opened = archive.extractfile(entry)
    return opened.read(most) if opened else b""


class _Header(tarfile.TarInfo):
    """A tar header; a damaged one after the first is an error,
    where `tarfile` would take it for the archive's end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from None


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _is_wanted(name: str, wanted: Callable[[str], bool]) -> bool:
    return wanted(name) and all(
        part == ".." or is_visible(part) for part in name.split("/") if part
    )


def _unsafe(name: str) -> str:
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "an absolute name in an archive; pack with relative names"
    return "a name that leads out of the archive" if ".." in re.split(r"[/\\]", name) else ""
