"""List the sources: one line for each image, nothing opened. One task, which streams."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from raytrain import storage
from raytrain.config.data import DataConfig, SubsetConfig
from raytrain.data import sources
from raytrain.data.files import download
from raytrain.data.files.location import is_web
from raytrain.data.image.image import DECODING
from raytrain.data.item import UNUSED, Item, Rejected
from raytrain.data.store import tables
from raytrain.data.store.schema import content_digest

BLOCK = 1024
"""Images of one row group, and of one scan job."""


def write_items(
    data: DataConfig, items: str, rejected: str, downloads: str, most: int | None = None
) -> dict[str, int]:
    """Write what the sources hold to the table `items`, and what they refuse or nothing uses to
    the table `rejected`; return the numbers. Archives at web addresses are kept in `downloads`.
    With `most` only so many are listed, of each source alike, and nothing is said of what nothing
    uses.

    `number` follows the order of the subsets and, in each, that of the source: it decides which of
    two equal images stays.
    """
    rules = scan_rules(data)
    refused: list[Rejected] = []
    count = {"items": 0, "rejected": 0, "unused": 0}

    def lines() -> Iterator[dict[str, Any]]:
        for number, found in enumerate(sources.every(near(data, downloads), most)):
            if isinstance(found, Rejected):
                refused.append(found)
                count["unused"] += found.rule == UNUSED
                if len(refused) == tables.GROUP:
                    flush()
            else:
                yield _line(found, number, rules, data.fetch.trust_addresses)

    def flush() -> None:
        if refused:
            part = storage.join(rejected, f"{count['rejected']:09d}.parquet")
            count["rejected"] += tables.write_rows(
                part, [item.model_dump() for item in refused], tables.REJECTED
            )
            refused.clear()

    count["items"] = tables.write_rows(items, lines(), tables.ITEMS, BLOCK)
    flush()
    return count


def scan_rules(data: DataConfig) -> str:
    """Return what, besides the file, the outcome of a scan depends on."""
    appearance = "" if data.quality.near_duplicates is None else f"{DECODING} {data.background}"
    cap = "" if data.max_side is None else f" {data.max_side}"
    return f"2 {data.max_pixels} {data.fetch.max_bytes} {appearance}{cap}"


def near(data: DataConfig, downloads: str) -> tuple[SubsetConfig, ...]:
    """Return the subsets, those at web addresses as what was downloaded of them."""
    return tuple(
        subset.model_copy(
            update={"source": download.archive(subset.source, downloads, data.fetch)}
        )
        if is_web(subset.source)
        else subset
        for subset in data.all_subsets()
    )


def _line(item: Item, number: int, rules: str, trusted: bool) -> dict[str, Any]:
    stamp = item.stamp or ("" if trusted and is_web(item.location) else uuid.uuid4().hex)
    # Without a stamp nothing says that the bytes are still the same: a fresh key has it scanned
    # again.
    line = item._asdict() | {
        "number": number,
        "captions": [text for text in item.captions if text.strip()],
    }
    line["key"] = content_digest(
        "scan", rules, item.location, item.caption_file, item.mask, item.control, stamp
    )
    del line["stamp"]
    return line
