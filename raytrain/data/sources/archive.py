"""A zip or tar (plain, or packed by gzip, bzip2, xz or zstd), on a disk or in an object store,
or a folder of such.

`photos.zip` gives images named `photos.zip/a/b.png`. A caption is the text file of the same stem
in the same folder of the archive. Links, encrypted entries, names that lead out, and what unpacks
to far more than it is packed are refused one by one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, child, look, parse, shown, write
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.archives import is_archive, members
from raytrain.data.sources._shared.tree import SIDECARS, is_image, top, walk

LINES = """
    SELECT name, part, (SELECT part FROM member AS text WHERE text.stem = image.stem
      AND text.extension IN ('.txt', '.caption')
                        ORDER BY text.extension DESC, number LIMIT 1)
    FROM member AS image WHERE extension NOT IN ('.txt', '.caption') ORDER BY number
"""


def recognizes(source: str) -> bool:
    """Tell whether the source is an archive by its name, or a folder with archives but no image
    right in it."""
    names = top(source)
    if names is None:
        return is_archive(base_name(absolute(source))) and look(absolute(source)).kind == "file"
    return any(map(is_archive, names[0])) and not any(map(is_image, names[0]))


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
    sql.execute(
        "CREATE TABLE member (number INTEGER PRIMARY KEY, stem BLOB, extension TEXT, name BLOB, "
        "part TEXT)"
    )
    for member in members(
        file, title, lambda name: is_image(name) or name.lower().endswith(SIDECARS)
    ):
        if isinstance(member, Rejected):
            yield member
        else:
            stem, extension = os.path.splitext(member.name)
            line = (
                os.fsencode(stem),
                extension.lower(),
                os.fsencode(member.name),
                write("", member.part),
            )
            sql.execute(
                "INSERT INTO member (stem, extension, name, part) VALUES (?, ?, ?, ?)", line
            )
    sql.execute("CREATE INDEX by_stem ON member (stem, extension)")
    for name, part, text in sql.execute(LINES):
        yield Item(
            f"{title}/{shown(os.fsdecode(name))}",
            write(file, parse(part).part),
            caption_file=write(file, parse(text).part) if text else "",
            stamp=f"{stamp}{part}{text or ''}",
        )
    sql.close()
