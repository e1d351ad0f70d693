"""A zip or tar (plain, or packed by gzip, bzip2, xz or zstd), on a disk or in an object store,
or a folder of such.

`photos.zip` gives images named `photos.zip/a/b.png`. A caption is the text file of the same stem
(`a.txt` of `a.png`, else `a.png.txt`) in the same folder of the archive. Links, encrypted entries,
names that lead out, and what unpacks to far more than it is packed are refused one by one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, child, look, parse, shown, write
from raytrain.data.item import UNUSED, Item, Rejected
from raytrain.data.sources._shared.archives import Member, is_archive, members
from raytrain.data.sources._shared.tree import SIDECARS, is_image, key, top, walk

TABLE = """
    CREATE TABLE member (number INTEGER PRIMARY KEY, kind TEXT, name BLOB, part TEXT,
      spelled BLOB, stem BLOB, whole BLOB, extension TEXT)
"""
_TEXT = """(SELECT number FROM member AS text WHERE kind = 'text' AND text.{} = image.{}
        ORDER BY extension DESC, number LIMIT 1)"""
PAIRS = f"""
    CREATE TABLE pair AS
    SELECT image.number AS image, coalesce({_TEXT.format("spelled", "spelled")},
      {_TEXT.format("stem", "stem")}, {_TEXT.format("stem", "whole")}) AS text
    FROM member AS image WHERE kind = 'image'
"""
ITEMS = """
    SELECT image.name, image.part, text.part FROM pair JOIN member AS image
      ON image.number = pair.image LEFT JOIN member AS text ON text.number = pair.text
    ORDER BY image.number
"""
UNUSED_ONES = """
    SELECT name, kind FROM member WHERE kind <> 'image'
      AND number NOT IN (SELECT text FROM pair WHERE text IS NOT NULL) ORDER BY number
"""
REASONS = {
    "text": "a text, but no image has its stem, or another is its caption",
    "other": "neither an image nor a caption",
}


def recognizes(source: str) -> bool:
    """Tell whether the source is an archive by its name, or a folder with archives but no image
    right in it."""
    names = top(source)
    if names is None:
        return is_archive(base_name(absolute(source))) and look(absolute(source)).kind == "file"
    return any(map(is_archive, names[0])) and not any(map(is_image, names[0]))


def reads(name: str) -> bool:
    """Tell whether a file of the folder is an archive."""
    return is_archive(name)


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the images of the archive, or of each archive of the folder."""
    file = absolute(subset.source)
    if look(file).kind != "folder":
        yield from _images(file, shown(base_name(file)))
        return
    for folder in walk(file):
        if isinstance(folder, Rejected):
            yield folder
            continue
        for name in filter(is_archive, folder.files):
            yield from _images(child(folder.file, name), shown(folder.relative + name))


def _images(file: str, title: str) -> Iterator[Item | Rejected]:
    """Pair images and captions, wherever in the archive they are,
    by a temporary database on disk."""
    stamp = look(file).stamp
    sql = sqlite3.connect("")
    sql.execute(TABLE)
    for member in members(file, title, lambda name: True):
        if isinstance(member, Rejected):
            yield member
        else:
            sql.execute("INSERT INTO member VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", _line(member))
    for column in ("spelled", "stem"):
        sql.execute(f"CREATE INDEX by_{column} ON member ({column}, extension)")
    sql.execute(PAIRS)
    for name, part, text in sql.execute(ITEMS):
        yield Item(
            f"{title}/{shown(os.fsdecode(name))}",
            write(file, parse(part).part),
            caption_file=write(file, parse(text).part) if text else "",
            stamp=f"{stamp}{part}{text or ''}",
        )
    for name, kind in sql.execute(UNUSED_ONES):
        path = f"{title}/{shown(os.fsdecode(name))}"
        yield Rejected(path=path, reason=REASONS[kind], rule=UNUSED)
    sql.close()


def _line(member: Member) -> tuple[Any, ...]:
    stem, extension = os.path.splitext(member.name)
    extension = extension.lower()
    kind = "image" if is_image(member.name) else "text" if extension in SIDECARS else "other"
    part = write("", member.part)
    return (
        kind, os.fsencode(member.name), part, os.fsencode(stem),
        os.fsencode(key(stem)), os.fsencode(key(member.name)), extension,
    )  # fmt: skip
