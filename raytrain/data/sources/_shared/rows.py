"""The records of a CSV, TSV, JSONL, JSON or parquet file, one after another."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.files import stream
from raytrain.data.item import Rejected
from raytrain.errors import UserError

LONGEST = 2**24
"""Bytes of one record at most."""
CHUNK = 2**18
SPACE = re.compile(r"[ \t\r\n]*")


class Row(NamedTuple):
    """One record, and where it is for people: `line 3`."""

    where: str
    record: dict[str, Any]


def rows(file: str, title: str) -> Iterator[Row | Rejected]:
    """Yield the records of a file by its extension, and its broken ones as Rejected;
    `title` is the file's shown name.

    A JSON file is a list of records, or an object {path: caption, captions, or record}, whose key
    becomes the field `path`; or records a line each. CSV separates by comma, semicolon or tab,
    whichever its first line has most of. UserError when the file cannot be read.
    """
    kind = os.path.splitext(title)[1].lower()
    try:
        with stream.open_binary(file) as opened:
            found = {
                ".json": _json,
                ".parquet": _parquet,
                ".jsonl": _lines,
                ".ndjson": _lines,
            }.get(kind, _csv)(_in_utf_8(opened))
            for row in found:
                yield Rejected(path=title, reason=row) if isinstance(row, str) else row
    except OSError as error:
        raise UserError(
            f"The list of images {file!r} must be readable: {error}. Nothing of it was used."
        ) from error


def _in_utf_8(opened: IO[bytes]) -> IO[bytes]:
    """Return a text stream's bytes in UTF-8; spreadsheets also write UTF-16."""
    mark = opened.read(2)
    opened.seek(0)
    if mark not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return opened
    try:
        return io.BytesIO(opened.read().decode("utf-16").encode())
    except UnicodeError as error:
        raise OSError(f"no UTF-16 text: {error}") from error


def _csv(opened: IO[bytes]) -> Iterator[Row | str]:
    text = io.TextIOWrapper(
        opened, "utf-8-sig", "surrogateescape", newline=""
    )  # names of files may be any bytes
    first = text.readline()
    lines = csv.reader(text, delimiter=max(",;\t", key=first.count))
    names = [
        name.strip()
        for name in next(csv.reader([first], delimiter=max(",;\t", key=first.count)), [])
    ]
    while True:
        try:
            cells = next(lines, None)
        except csv.Error as error:
            yield f"line {lines.line_num + 1}: {error}"
            continue
        if cells is None:
            return
        if len(cells) > len(names):
            yield (
                f"line {lines.line_num + 1}: {len(cells)} cells for {len(names)} columns; put "
                "text with commas in quotes"
            )
        elif cells:
            yield Row(f"line {lines.line_num + 1}", dict(zip(names, cells, strict=False)))


def _lines(opened: IO[bytes]) -> Iterator[Row | str]:
    number = 0
    while line := opened.readline(LONGEST):
        number += 1
        if len(line) == LONGEST and not line.endswith(b"\n"):
            yield f"line {number}: longer than {LONGEST} bytes; not read further"
            return
        if line.strip():
            try:
                record = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield f"line {number}: no valid JSON: {error}"
                continue
            yield (
                Row(f"line {number}", record)
                if isinstance(record, dict)
                else f"line {number}: no JSON object"
            )


def _json(opened: IO[bytes]) -> Iterator[Row | str]:
    if _is_lines(opened):
        yield from _lines(opened)
        return
    try:
        for number, (key, content) in enumerate(
            _members(io.TextIOWrapper(opened, "utf-8-sig")), 1
        ):
            record = (
                content
                if isinstance(content, dict)
                else {"text": content}
                if key is not None
                else None
            )
            if record is None:
                yield f"record {number}: no JSON object"
            else:
                yield Row(f"record {number}", record if key is None else {**record, "path": key})
    except (ValueError, RecursionError) as error:
        yield f"no valid JSON, not read further: {error}"


def _is_lines(opened: IO[bytes]) -> bool:
    """Tell whether a JSON file has an object on each of several lines; leaves it at its start."""
    first, second = opened.readline(LONGEST), opened.readline(LONGEST)
    opened.seek(0)
    try:
        return bool(second.strip()) and isinstance(json.loads(first.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _members(text: io.TextIOWrapper) -> Iterator[tuple[str | None, Any]]:
    """Yield the (None, value) of a list or the (key, value) of an object,
    holding one at a time."""
    parser = _Json(text)
    kind = parser.mark("[{")
    end = "]" if kind == "[" else "}"
    if parser.peek() == end:
        return
    while True:
        key = None
        if kind == "{":
            key = parser.value()
            parser.mark(":")
        yield key, parser.value()
        if parser.mark(f",{end}") == end:
            return


class _Json:
    """Reads JSON values off a stream with the standard library's decoder."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._rest, self._decode = text, "", json.JSONDecoder().raw_decode

    def peek(self) -> str:
        while True:
            self._rest = self._rest[SPACE.match(self._rest).end() :]  # type: ignore[union-attr]
            if self._rest or not self._more():
                return self._rest[:1]

    def mark(self, expected: str) -> str:
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"expected one of {' '.join(expected)}, found {found or 'the end'!r}")
        self._rest = self._rest[1:]
        return found

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                content, end = self._decode(self._rest)
                if (
                    end < len(self._rest) or not self._more()
                ):  # a number may continue in what was not read yet
                    self._rest = self._rest[end:]
                    return content
            except json.JSONDecodeError:
                if len(self._rest) > LONGEST or not self._more():
                    raise

    def _more(self) -> bool:
        chunk = self._text.read(CHUNK)
        self._rest += chunk
        return bool(chunk)


def _parquet(opened: IO[bytes]) -> Iterator[Row | str]:
    try:
        number = 0
        for batch in pq.ParquetFile(opened).iter_batches(1024):
            for record in batch.to_pylist():
                number += 1
                yield Row(f"row {number}", record)
    except pa.ArrowInvalid as error:
        yield f"no valid parquet, not read further: {error}"
