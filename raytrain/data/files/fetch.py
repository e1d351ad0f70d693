"""Read the bytes at a location: local files, object stores, web addresses, members of archives,
cells of parquet files.

What is the file's own fault, for good, is a `BadImage`: not there, too large, not a regular file,
damaged. What is transient (a time-out, a server's fault, a broken connection, a refused
permission) is an `OSError`.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import tempfile
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from struct import Struct
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from raytrain.config.data import FetchConfig
from raytrain.data.files import groups, stream, web
from raytrain.data.files.location import (
    Cell,
    Location,
    Range,
    Unpacked,
    Zipped,
    is_web,
    look,
    parse,
    store,
)
from raytrain.data.image.image import BadImage

GROUPS = 2
"""Row groups of parquet files kept in memory: rows are asked for about in order,
from a few threads."""
FILES = 16
"""Open files of object stores that are kept."""
ZIP_HEADER = Struct("<4s22xHH")
"""A zip entry's local header: its mark, and the lengths of the name and of the extra field that
come before the data."""


Value = TypeVar("Value")


class Fetcher:
    """Reads locations within the limits of `config`; any number of threads may share one.

    A compressed tar is unpacked whole, once for each machine, into the folder `cache` (default:
    `raytrain-unpacked` in the folder for temporary files), where it stays: it must have room for
    it. All other parts are read where they are.
    """

    def __init__(self, config: FetchConfig, cache: str = "") -> None:
        self.config = config
        self.cache = cache or os.path.join(
            tempfile.gettempdir(), f"raytrain-unpacked-{os.getuid()}"
        )
        self._web = web.Web(config)
        self._files: _Kept[fs.NativeFile] = _Kept(FILES)
        self._groups: _Kept[pa.ChunkedArray] = _Kept(GROUPS)
        self._unpacked: _Kept[str] = _Kept(FILES)

    def read(self, location: str) -> bytes:
        """Return the bytes at a location.

        Raises:
            BadImage: these bytes will never be an image: absent, above `max_bytes`, no regular
            file, damaged. OSError: reading failed for a reason that may be transient.
        """
        place = parse(location)
        try:
            return self._read(place)
        except FileNotFoundError:
            raise BadImage("the file is not there") from None
        except stream.NotRegularError as error:
            raise BadImage(str(error)) from None

    def _read(self, place: Location) -> bytes:
        match place.part:
            case None if is_web(place.file):
                return self._web.read(place.file)
            case None:
                return self._whole(place.file)
            case Range(offset, size):
                return self._range(place.file, offset, size)
            case Unpacked(offset, size):
                self._check(size)
                name = hashlib.sha256(
                    f"{place.file} {look(place.file).stamp}".encode(errors="surrogateescape")
                ).hexdigest()
                target = os.path.join(self.cache, f"{name}.tar")
                return self._range(
                    self._unpacked.get(target, lambda: _unpack(place.file, target)), offset, size
                )
            case Zipped():
                return self._zipped(place.file, place.part)
            case Cell():
                return self._cell(place.file, place.part)

    def _check(self, size: int) -> None:
        if size > self.config.max_bytes:
            raise BadImage(
                f"{size} bytes is above data.fetch.max_bytes = {self.config.max_bytes}; not read"
            )

    def _whole(self, file: str) -> bytes:
        with stream.open_binary(file) as opened:
            size = opened.seek(0, os.SEEK_END)
            self._check(size)
            opened.seek(0)
            return _complete(opened.read(size), size)

    def _range(self, file: str, offset: int, size: int) -> bytes:
        self._check(size)
        if "://" in file:
            content = bytes(
                self._files.get(file, lambda: _open_object(file)).read_at(size, offset)
            )
            if len(content) < size:  # the file may have grown since it was opened
                self._files.forget(file)
                content = bytes(
                    self._files.get(file, lambda: _open_object(file)).read_at(size, offset)
                )
            return _complete(content, size)
        descriptor = stream.open_regular(file)
        try:
            return _complete(_pread(descriptor, size, offset), size)
        finally:
            os.close(descriptor)

    def _zipped(self, file: str, entry: Zipped) -> bytes:
        self._check(max(entry.size, entry.packed))
        mark, name, extra = ZIP_HEADER.unpack(self._range(file, entry.offset, ZIP_HEADER.size))
        if mark != b"PK\x03\x04":
            raise BadImage("damaged zip: no entry where its directory says")
        content = self._range(file, entry.offset + ZIP_HEADER.size + name + extra, entry.packed)
        if entry.packed != entry.size or zlib.crc32(content) != entry.crc:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, entry.size + 1)
            except zlib.error as error:
                raise BadImage(f"damaged zip entry: {error}") from None
        if len(content) != entry.size or zlib.crc32(content) != entry.crc:
            raise BadImage("damaged zip entry: its content is not what the zip's directory says")
        return content

    def _cell(self, file: str, cell: Cell) -> bytes:
        key = (file, look(file).stamp, cell.group, cell.column)
        column = self._groups.get(key, lambda: _column(file, cell))
        if cell.row >= len(column):
            raise BadImage("the parquet file has no such row any more")
        value = column[cell.row].as_py()
        if not isinstance(value, bytes):
            raise BadImage("the row holds no image")
        self._check(len(value))
        return value


class _Kept(Generic[Value]):
    """The last few values asked for.

    Each is made once, by the first thread that asks, while others wait for it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        with self._lock:
            value = self._values.get(key)
            mine = value is None
            if value is None:
                value = self._values[key] = Future()
                if len(self._values) > self._most:
                    self._values.popitem(last=False)
            self._values.move_to_end(key)
        if mine:
            try:
                value.set_result(make())
            except BaseException as error:
                value.set_exception(error)
                self.forget(key)
        return value.result()

    def forget(self, key: Hashable) -> None:
        with self._lock:
            self._values.pop(key, None)


def _open_object(file: str) -> fs.NativeFile:
    filesystem, path = store(file)
    return filesystem.open_input_file(path)


def _column(file: str, cell: Cell) -> pa.ChunkedArray:
    """Read one column of one row group: bytes, or text where the column holds addresses."""
    with stream.open_binary(file) as opened:
        try:
            table = groups.opened(file, opened).read(cell.group, [cell.column])
        except (pa.ArrowInvalid, IndexError) as error:
            raise BadImage(f"damaged parquet or Arrow file: {error}") from None
    column = table.column(0) if table.num_columns else pa.chunked_array([], pa.binary())
    for field in cell.column.split(".")[1:]:
        column = pa.chunked_array(
            [pc.struct_field(chunk, field) for chunk in column.chunks], pa.binary()
        )
    return column


def _unpack(file: str, target: str) -> str:
    """Unpack a compressed file to `target`, at once under a name of its own,
    so that several processes may try."""
    if os.path.exists(target):
        return target
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    with (
        stream.open_binary(file) as opened,
        tempfile.NamedTemporaryFile(dir=os.path.dirname(target)) as temporary,
    ):
        content = stream.unpacked(opened)
        try:
            shutil.copyfileobj(content, temporary, 2**20)
        except (
            stream.TooLargeError,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            gzip.BadGzipFile,
        ) as error:
            raise BadImage(f"damaged archive: {error}") from None
        temporary.flush()
        os.link(temporary.name, partial := f"{target}.{os.getpid()}")
        os.replace(partial, target)
    return target


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    parts, missing = [], size
    while missing and (part := os.pread(descriptor, missing, offset + size - missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _complete(content: bytes, size: int) -> bytes:
    if len(content) != size:
        raise BadImage(f"the file ends after {len(content)} of {size} bytes")
    return content
