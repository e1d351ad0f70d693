"""Records with an image's address and captions: which fields hold them, and what they say."""

from __future__ import annotations

import itertools
import os
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from raytrain.data.files.location import absolute, child, is_web, parent, shown, write
from raytrain.data.item import UNUSED, Item, Rejected
from raytrain.data.sources._shared import site
from raytrain.data.sources._shared.rows import Row, rows
from raytrain.data.sources._shared.seen import Seen
from raytrain.data.sources._shared.tree import Places, images, walk, why_no_file
from raytrain.errors import UserError

FILES = (
    "path",
    "file",
    "file_name",
    "filename",
    "url",
    "image",
    "image_path",
    "image_file",
    "img",
    "img_path",
    "target",
)
CAPTIONS = ("text", "caption", "prompt", "captions", "texts")
MASKS = ("mask", "mask_path", "mask_file_name")
CONTROLS = ("conditioning_image", "control", "control_path", "conditioning_image_file_name")
FILL50K = frozenset(("source", "target", "prompt"))
"""The fields of ControlNet's own training lists: control image, image, caption.

Source: https://github.com/lllyasviel/ControlNet/blob/main/docs/train.md."""
MOST_COLUMNS = 100
"""Columns of one list that are named where nothing reads them."""


def field(names: Iterable[str], wanted: Collection[str]) -> str | None:
    """Return the first wanted field that is among the names, whatever its case."""
    by_name = {name.lower(): name for name in reversed(list(names))}
    return next((by_name[name] for name in wanted if name in by_name), None)


def filled(record: Mapping[str, Any], wanted: Collection[str]) -> str | None:
    """Return the first wanted field that a record has and that is not None."""
    return field((name for name, content in record.items() if content is not None), wanted)


def value(record: Mapping[str, Any], wanted: Collection[str]) -> Any:
    """Return the value of the first wanted field that is there and not None; None without one."""
    name = filled(record, wanted)
    return record[name] if name is not None else None


def check_column(title: str, wanted: str, names: Collection[str]) -> None:
    """Raise UserError where a list lacks the column of captions that the user names."""
    if wanted and names and field(names, (wanted,)) is None:
        raise UserError(
            f"data.caption_column must be a column of the source's lists, but {title} has no "
            f"{wanted!r}; its columns are {', '.join(sorted(names))}. Its images would have no "
            "captions; name one of them, or leave it out."
        )


def unread(title: str, names: Iterable[str]) -> Iterator[Rejected]:
    """Yield the columns of a list that nothing reads; the names are sorted."""
    reason = f"a column that nothing reads; captions are in {', '.join(CAPTIONS)}"
    for name in sorted(names):
        yield Rejected(path=f"{title}: {shown(name)}", reason=reason, rule=UNUSED)


def captions(content: Any) -> tuple[str, ...]:
    """Return the captions of a field: none, one text, or a list of texts.

    ValueError for anything else.
    """
    texts = [] if content is None else content if isinstance(content, list | tuple) else [content]
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a caption must be text, got {text!r:.80}")
        # a lone surrogate, which JSON can spell, is a UnicodeEncodeError: a ValueError
        text.encode()
    return tuple(text for text in texts if text.strip())


class Records:
    """Makes items of records whose paths count from `folder`.

    `inside`: only paths below the folder are allowed (what comes with downloaded datasets); else
    also absolute paths, URIs and web addresses. `title` is how the list itself is shown;
    `caption_column` names the field of the captions where it is not a usual one.
    """

    def __init__(
        self,
        folder: str,
        title: str,
        inside: bool,
        prefix: str = "",
        caption_column: str = "",
    ) -> None:
        self.folder, self.title, self.inside, self.prefix = folder, title, inside, prefix
        self.caption_column = caption_column
        self.captions = (caption_column,) if caption_column else CAPTIONS
        self.places = Places()
        self._read: set[str] = set()
        self._columns: set[str] = set()

    def items(self, rows: Iterable[Row | Rejected]) -> Iterator[Item | Rejected]:
        """Yield the items of rows, then the columns that nothing reads; neighboring rows of one
        image give it several captions."""
        for _, same in itertools.groupby(rows, lambda row: self._same(row)):
            group = list(same)
            if isinstance(group[0], Rejected):
                yield from (row for row in group if isinstance(row, Rejected))
            else:
                yield self.item([row for row in group if isinstance(row, Row)])
        check_column(self.title, self.caption_column, self._columns)
        yield from unread(self.title, self._columns - self._read)

    def item(self, rows: list[Row]) -> Item | Rejected:
        """Return the image that these rows name."""
        if len(self._columns) < MOST_COLUMNS:
            self._columns |= rows[0].record.keys()
        controls = ("source",) if rows[0].record.keys() == FILL50K else CONTROLS
        for names in (FILES, self.captions, MASKS, controls):
            self._value(rows[0], names)  # read, even where a cell of them is refused below
        try:
            file, path = self._locate(self._value(rows[0], FILES))
            texts = tuple(
                text for row in rows for text in captions(self._value(row, self.captions))
            )
            stamps, layers = [self._stamp(file)], []
            for names in (MASKS, controls):
                cell = self._value(rows[0], names)
                layers.append(self._locate(cell)[0] if cell else "")
                if cell:
                    stamps.append(self._stamp(layers[-1]))
        except UnicodeEncodeError as error:
            reason = f"no UTF-8 text (at {error.start}); save the list as UTF-8"
            return Rejected(path=self.title, reason=f"{rows[0].where}: {reason}")
        except ValueError as error:
            return Rejected(path=self.title, reason=f"{rows[0].where}: {error}")
        text, text_stamp = ("", "") if texts or is_web(file) else self.places.sidecar(file)
        if not text and not texts and (texts := site.caption(rows[0].record)):
            self._read |= set(site.KINDS)
        if said := site.facts(rows[0].record):
            self._read |= site.FACTS
        stamp = " ".join(filter(None, [*stamps, text_stamp])) if all(stamps) else ""
        mask, control = (write(layer) if layer else "" for layer in layers)
        return Item(
            path, write(file), texts, caption_file=text, mask=mask, control=control,
            site=said, stamp=stamp,
        )  # fmt: skip

    def _value(self, row: Row, wanted: Collection[str]) -> Any:
        """Return what a row has in the first wanted field that is filled, and note that field."""
        name = filled(row.record, wanted)
        if name is None:
            return None
        self._read.add(name)
        return row.record[name]

    def _same(self, row: Row | Rejected) -> Any:
        cell = None if isinstance(row, Rejected) else value(row.record, FILES)
        return cell if isinstance(cell, str) else object()

    def _stamp(self, file: str) -> str:
        if is_web(file):
            return ""
        found = self.places.look(file)
        if found.kind != "file":
            raise ValueError(f"{shown(file)!r}: {why_no_file(found)}")
        return found.stamp

    def _locate(self, cell: Any) -> tuple[str, str]:
        """Return the file that a cell names, and how it is shown."""
        if not isinstance(cell, str) or not cell.strip():
            raise ValueError(f"names no image; needs one of the columns {', '.join(FILES)}")
        os.fsencode(
            cell
        )  # a lone surrogate, which JSON can spell, is a UnicodeEncodeError: a ValueError
        if "\0" in cell:
            raise ValueError("a path with a NUL")
        below = self.folder.rstrip("/") + "/"
        if cell.startswith("/") and posixpath.normpath(cell).startswith(below):
            cell = posixpath.normpath(cell).removeprefix(below)
        leaves = "://" in cell or cell.startswith("/") or posixpath.normpath(cell).startswith("..")
        if leaves and self.inside:
            raise ValueError(f"{shown(cell)!r} leads out of the dataset's folder")
        if is_web(cell.strip()):
            return cell.strip(), shown(cell.strip())
        if "://" in cell:
            return absolute(cell), shown(cell)
        if cell.startswith("/"):
            if "://" in self.folder:
                raise ValueError(
                    f"{shown(cell)!r} is a path of one machine in a list of an object store"
                )
            return self.places.spelled(posixpath.normpath(cell)), shown(cell)
        folder, relative = self.folder, posixpath.normpath(cell)
        while relative.startswith("../"):
            folder, relative = parent(folder), relative[3:]
        file = self.places.spelled(child(folder, relative))
        if "\\" in cell and self.places.look(file).kind == "absent":  # as Windows writes paths
            return self._locate(cell.replace("\\", "/"))
        return file, shown(self.prefix + posixpath.normpath(cell))


def described(
    root: str,
    is_list: Callable[[str], bool],
    skip: Collection[str] = (),
    inside: bool = True,
    caption_column: str = "",
) -> Iterator[Item | Rejected]:
    """Yield what the lists in a tree of folders name, then the images there that none names.

    `is_list` picks the lists by name. Where two lists name an image, the one of the deeper folder
    counts.
    """
    claimed = Seen()
    for folder in walk(root, skip):
        if isinstance(folder, Rejected):
            continue  # the second walk yields it
        for name in filter(is_list, folder.files):
            title, here = shown(folder.relative + name), Seen()
            records = Records(folder.file, title, inside, folder.relative, caption_column)
            for found in records.items(rows(child(folder.file, name), title)):
                if isinstance(found, Rejected):
                    yield found
                elif not here.add(found.location):
                    yield Rejected(
                        path=found.path,
                        reason=f"{title} names it twice; the first counts",
                        rule="duplicate",
                    )
                elif claimed.add(found.location):
                    for layer in filter(None, (found.mask, found.control)):
                        claimed.add(layer)
                    yield found
    for left in images(root, skip):
        if isinstance(left, Rejected) or claimed.add(left.location):
            yield left
