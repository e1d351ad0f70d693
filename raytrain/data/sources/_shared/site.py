"""What image sites say of an image in a record: its score, its rating and its tags by kind, in the
columns that Danbooru's interface has (https://danbooru.donmai.us/wiki_pages/api:posts)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

KINDS = ("tag_string_character", "tag_string_copyright", "tag_string_artist", "tag_string_general")
"""The kinds of tags a caption is made of, in order."""
META = "tag_string_meta"
FACTS = frozenset(("score", "rating", META))
SMILE = 3
"""Tags of no more characters are faces such as `^_^`, whose underscore stays."""


def caption(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the caption that a record's tags are; none where it has none."""
    found = [tag for kind in KINDS for tag in words(record.get(kind))]
    return (", ".join(dict.fromkeys(found)),) if found else ()


def words(content: Any) -> list[str]:
    """Return the tags of a column, which separates them by spaces and has no space in one."""
    tags = content.split() if isinstance(content, str) else []
    return [tag if len(tag) <= SMILE else tag.replace("_", " ") for tag in tags]


def facts(record: Mapping[str, Any]) -> str:
    """Return score, rating and meta tags, as `Item.site`; "" where a record says nothing of
    them."""
    found: dict[str, Any] = {}
    score, rating = record.get("score"), record.get("rating")
    try:
        number = math.nan if score is None or isinstance(score, bool) else float(score)
    except (TypeError, ValueError):
        number = math.nan
    if math.isfinite(number):
        found["score"] = number
    if isinstance(rating, str) and rating.strip():
        found["rating"] = rating.strip()
    if meta := words(record.get(META)):
        found["meta"] = meta
    return json.dumps(found, sort_keys=True) if found else ""
