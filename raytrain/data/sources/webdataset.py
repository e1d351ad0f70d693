"""WebDataset: tar shards whose consecutive members of one key, `0001.jpg 0001.json 0001.txt`,
are one sample.

The source is a folder of shards, one shard, a pattern with `*`, or one with braces:
`train-{000..009}.tar`. A sample's image is its first member with an image's extension; its caption
is the member `txt` (or `caption`), else text, caption or prompt of the member `json`, else the
member `cls` where that is a word. `mask.png` and `control.png` are its mask and control image.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, child, look, parent, shown, write
from raytrain.data.item import UNUSED, Item, Rejected
from raytrain.data.sources._shared.archives import Member, is_archive, members
from raytrain.data.sources._shared.records import CAPTIONS, captions, check_column, value
from raytrain.data.sources._shared.tree import Folder, is_image, top, walk
from raytrain.errors import UserError

RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
TEXTS = ("txt", "caption", "json", "cls")
LAYERS = ("mask.", "control.", "conditioning_image.")
FIRST_MEMBERS = 50
"""First members of the first shard that tell a WebDataset from an archive."""
METADATA_BYTES = 2**20
COLUMNS = True


def recognizes(source: str) -> bool:
    """Tell whether the source is a pattern of tars, or a tar (or a folder of tars)
    with a `json` or `cls` among the first."""
    if _is_pattern(source):
        return ".tar" in source or ".tgz" in source
    names = top(source)
    if names is not None and any(map(is_image, names[0])):
        return False
    if names is None and not (
        reads(base_name(absolute(source))) and look(absolute(source)).kind == "file"
    ):
        return False
    first = next((shard for shard in _shards(source) if not isinstance(shard, Rejected)), None)
    if first is None:
        return False
    found = itertools.islice(members(*first, lambda name: True), FIRST_MEMBERS)
    return any(
        isinstance(member, Member) and member.name.endswith((".json", ".cls")) for member in found
    )


def reads(name: str) -> bool:
    """Tell whether a file of the folder is a shard."""
    return is_archive(name) and not name.lower().endswith(".zip")


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the samples of all shards, in the order of the shards' names."""
    for shard in _shards(subset.source):
        if isinstance(shard, Rejected):
            yield shard
        else:
            yield from _samples(*shard, subset.caption_column)


class _Entry(NamedTuple):
    """A member, split at the first dot of its name, and its content where the sample's caption may
    be in it."""

    key: str
    extension: str
    member: Member
    content: bytes


def _samples(file: str, title: str, column: str) -> Iterator[Item | Rejected]:
    stamp = look(file).stamp
    refused: list[Rejected] = []
    for key, entries in itertools.groupby(_entries(file, title, refused), lambda entry: entry.key):
        group = list(entries)
        yield from refused
        refused.clear()
        for own, sample in _split(key, group):
            yield from _item(file, f"{title}/", shown(own), stamp, sample, column)
    yield from refused


def _entries(file: str, title: str, refused: list[Rejected]) -> Iterator[_Entry]:
    for member in members(file, title, lambda name: True):
        if isinstance(member, Rejected):
            refused.append(member)
            continue
        folder, slash, name = member.name.rpartition("/")
        key, _, extension = name.partition(".")
        content = member.read(METADATA_BYTES) if name.endswith((".json", ".cls")) else b""
        yield _Entry(f"{folder}{slash}{key}", extension.lower(), member, content)


def _split(key: str, group: list[_Entry]) -> Iterator[tuple[str, list[_Entry]]]:
    """Yield the samples among members whose names are equal up to the first dot.

    Usually they are one. Where there are several images (`shot.v1.0.png`, `shot.v1.1.png`) each is
    one, with the members that are named like it up to the last dot and those named like none.
    """
    images = [entry for entry in group if _is_picture(entry.extension)]
    stems = {os.path.splitext(image.member.name)[0]: [image] for image in reversed(images)}
    if len(stems) < 2:
        yield key, group
        return
    shared = []
    for entry in group:
        stem = os.path.splitext(entry.member.name)[0]
        while stem not in stems and len(stem) > len(key):
            stem = os.path.splitext(stem)[0]
        own = stems.get(stem)
        if own is None:
            shared.append(entry)
        elif entry is not own[0]:
            own.append(entry)
    for stem in sorted(stems):
        own = [
            entry._replace(extension=entry.member.name[len(stem) + 1 :].lower())
            for entry in stems[stem]
        ]
        yield stem, own + shared


def _is_picture(extension: str) -> bool:
    return is_image(f"x.{extension}") and not extension.startswith(LAYERS)


def _item(
    file: str, folder: str, key: str, stamp: str, entries: list[_Entry], column: str
) -> Iterator[Item | Rejected]:
    sample = {entry.extension: entry for entry in reversed(entries)}
    image = next((entry.extension for entry in entries if _is_picture(entry.extension)), None)
    if image is None:
        yield from _unused(folder, entries, "no image is in its sample")
        return
    layers = {
        name: next((e for e in sample if e.startswith(name) and is_image(f"x.{e}")), "")
        for name in LAYERS
    }
    control = layers["control."] or layers["conditioning_image."]
    texts: tuple[str, ...] = ()
    try:
        texts = _captions({e: entry.content for e, entry in sample.items()}, column)
    except ValueError as error:
        yield Rejected(path=f"{folder}{key}.json", reason=f"its caption cannot be read: {error}")
    read = {image, layers["mask."], control, *TEXTS}
    place = {e: write(file, sample[e].member.part) for e in sample if e in read}
    yield Item(
        f"{folder}{key}.{shown(image)}",
        place[image],
        texts,
        caption_file=place.get("txt", place.get("caption", "")),
        mask=place.get(layers["mask."], ""),
        control=place.get(control, ""),
        stamp=f"{stamp}{''.join(text.partition('#')[2] for text in place.values())}",
    )
    left = [entry for entry in entries if sample[entry.extension] is not entry]
    left += [sample[e] for e in sample if e not in read]
    yield from _unused(folder, left, "neither image, caption, mask nor control of its sample")


def _unused(folder: str, entries: list[_Entry], reason: str) -> Iterator[Rejected]:
    for entry in entries:
        path = f"{folder}{shown(entry.member.name)}"
        yield Rejected(path=path, reason=reason, rule=UNUSED)


def _captions(contents: dict[str, bytes], column: str) -> tuple[str, ...]:
    if "json" in contents:
        record: Any = json.loads(contents["json"])
        if isinstance(record, dict):
            check_column("a json of the shards", column, record)
        if isinstance(record, dict) and (
            texts := captions(value(record, (column,) if column else CAPTIONS))
        ):
            return texts
    word = contents.get("cls", b"").decode().strip()
    return (word,) if word and not word.isdecimal() else ()


def _shards(source: str) -> Iterator[tuple[str, str] | Rejected]:
    """Yield file and shown name of each shard."""
    if _is_pattern(source):
        for pattern in _expand(source):
            yield from _matches(absolute(pattern), pattern)
        return
    file = absolute(source)
    if look(file).kind != "folder":
        yield file, shown(base_name(file))
        return
    for folder in walk(file):
        if isinstance(folder, Rejected):
            yield folder
        else:
            for name in filter(reads, folder.files):
                yield child(folder.file, name), shown(folder.relative + name)


def _matches(file: str, pattern: str) -> Iterator[tuple[str, str] | Rejected]:
    name = base_name(file)
    if "*" not in name:
        yield file, shown(name)
        return
    try:
        folder = Folder(parent(file))
    except OSError as error:
        raise UserError(
            f"data.source {pattern!r}: its folder cannot be read: {error}. Correct data.source."
        ) from error
    for match in fnmatch.filter(folder.files, name):
        yield child(folder.file, match), shown(match)


def _expand(pattern: str) -> Iterator[str]:
    """Spell braces out: `{08..10}` counts with the digits it is written with, `{a,b}` lists."""
    if match := RANGE.search(pattern):
        first, last = match.groups()
        values = [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    elif match := CHOICE.search(pattern):
        values = match[1].split(",")
    else:
        yield pattern
        return
    for text in values:
        yield from _expand(pattern[: match.start()] + text + pattern[match.end() :])


def _is_pattern(source: str) -> bool:
    return any(mark in source for mark in "*{") and (
        "://" in source or look(absolute(source)).kind == "absent"
    )
