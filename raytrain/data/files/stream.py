"""Open a file of any store as a seekable stream, and a compressed one as the stream it unpacks to,
within limits."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
from typing import IO, Any, cast

import pyarrow as pa
from pyarrow import fs

from raytrain.data.files.location import store

RATIO = 200
"""Images hardly shrink: what unpacks to more than RATIO times its packed bytes plus SLACK is
refused."""
SLACK = 256 * 2**20
BLOCK = 256 * 2**10
"""Bytes of one read from an object store while an archive is listed."""
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class NotRegularError(OSError):
    """A pipe, socket, device or folder stands where a file should be."""


class TooLargeError(ValueError):
    """More was unpacked than `limit` allows."""


def open_binary(file: str) -> IO[bytes]:
    """Open the `file` of a location for reading, with `seek`; OSError where that fails."""
    if "://" in file:
        filesystem, path = store(file)
        return cast("IO[bytes]", io.BufferedReader(_Object(filesystem, path), BLOCK))
    return os.fdopen(open_regular(file), "rb")


def open_regular(file: str) -> int:
    """Open a local regular file and return its descriptor.

    A pipe is refused instead of waited for.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise NotRegularError("not a regular file")


def packing(head: bytes) -> str | None:
    """Name the compression that a file's first 6 bytes tell of, or None."""
    return next((name for magic, name in PACKED.items() if head.startswith(magic)), None)


def limit(packed: int) -> int:
    """Return how many bytes that many packed ones may become."""
    return RATIO * packed + SLACK


def unpacked(stream: IO[bytes]) -> IO[bytes]:
    """Return the stream that a compressed one unpacks to; reading past `limit` raises
    TooLargeError."""
    head = stream.read(6)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    match packing(head):
        case "gzip":
            inner: Any = gzip.GzipFile(fileobj=stream)
        case "bzip2":
            inner = bz2.BZ2File(stream)
        case "xz":
            inner = lzma.LZMAFile(stream)  # noqa: SIM115 - closed with the stream under it
        case "zstd":
            inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
        case _:
            raise ValueError("not compressed")
    return cast("IO[bytes]", _Limited(inner, limit(size)))


class _Limited:
    """A stream that ends with TooLargeError instead of being read without end."""

    def __init__(self, inner: Any, most: int) -> None:
        self._inner, self._most, self._read = inner, most, 0

    def read(self, size: int = -1) -> bytes:
        content = bytes(self._inner.read(size if size >= 0 else self._most + 1))
        self._read += len(content)
        if self._read > self._most:
            raise TooLargeError(
                f"unpacks to more than {self._most} bytes, {RATIO} times what it holds packed"
            )
        return content


class _Object(io.RawIOBase):
    """A file of an object store as Python's raw stream, read by ranges."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._file = filesystem.open_input_file(path)
        self._size, self._at = self._file.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        )
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        content = self._file.read_at(wanted, self._at) if wanted else b""
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
