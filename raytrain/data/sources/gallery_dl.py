"""A folder that gallery-dl filled with `--write-metadata` (`raytrain data scrape` does):
`cat.jpg` and its facts in `cat.jpg.json`.

A caption is the tags, joined by a comma and a space, of an image that has any (`tags`,
`tag_string`); else its `caption`, `description`, `content` or `title`, without markup. An image
without such facts has the text file of its stem.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raytrain.config.data import SubsetConfig
from raytrain.data.files import stream
from raytrain.data.files.location import absolute, child, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.tree import Folder, image, is_image, top, walk
from raytrain.text import decode

TAGS = ("tags", "tag_string")
TEXTS = ("caption", "description", "content", "title")
FACTS = ".json"
LARGEST = 2**24
"""Bytes of a file of facts."""


def recognizes(source: str) -> bool:
    """Tell whether the source is a folder with facts next to an image right in it."""
    names = top(source)
    return names is not None and any(
        name.endswith(FACTS) and is_image(name.removesuffix(FACTS)) for name in names[0]
    )


def reads(name: str) -> bool:
    """Tell whether a file holds facts."""
    return name.endswith(FACTS)


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the folder's images with what is known of them."""
    skip = [absolute(folder) for folder in (subset.masks, subset.controls) if folder]
    for folder in walk(absolute(subset.source), skip):
        if isinstance(folder, Rejected):
            yield folder
            continue
        known = {name for name in folder.files if name.endswith(FACTS)}
        for name in folder.files:
            if is_image(name):
                for found in image(folder, name):
                    facts = f"{name}{FACTS}"
                    yield _told(found, folder, facts) if facts in known else found


def caption(facts: Mapping[str, Any]) -> str:
    """Return the caption that facts make; "" where they hold none.

    >>> caption({"tags": {"artist": ["a"], "general": ["red ball", "toy"]}, "title": "x"})
    'a, red ball, toy'
    """
    for name in TAGS:
        if tags := _tags(facts.get(name)):
            return ", ".join(tags)
    for name in TEXTS:
        text = facts.get(name)
        if isinstance(text, str) and (plain := _plain(text)):
            return plain
    return ""


def _told(item: Item | Rejected, folder: Folder, name: str) -> Item | Rejected:
    """Add what a file of facts says."""
    if isinstance(item, Rejected):
        return item
    try:
        with stream.open_binary(child(folder.file, name)) as opened:
            facts = json.loads(decode(opened.read(LARGEST)))
    except (OSError, ValueError, stream.NotRegularError) as error:
        return Rejected(path=item.path, reason=f"its facts {shown(name)} cannot be read: {error}")
    text = caption(facts) if isinstance(facts, dict) else ""
    stamp = f"{item.stamp} {folder.look(name).stamp}"
    return item._replace(
        captions=(text,) if text else (), caption_file="" if text else item.caption_file,
        stamp=stamp,
    )  # fmt: skip


def _tags(found: Any) -> list[str]:
    """Return tags of a list, of lists by kind, or of one text, whose separator is a comma or else
    a space; those without any text are left out."""
    if isinstance(found, dict):
        return list(itertools.chain.from_iterable(_tags(one) for one in found.values()))
    if isinstance(found, str):
        found = found.split(",") if "," in found else found.split()
    if not isinstance(found, list):
        return []
    # some sites give each tag as a table with its name
    names = [one.get("name") if isinstance(one, dict) else one for one in found]
    return [plain for one in names if isinstance(one, str) and (plain := _plain(one))]


def _plain(text: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
