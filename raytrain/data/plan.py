"""Compare the rows a dataset should have with the rows on storage: what to keep, copy and encode. Pure.

Everything is found by content address, so a run that was killed, a picture that came back and a renamed file all cost
nothing but what is really missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from raytrain.config import DataConfig
from raytrain.data import bucket, picture
from raytrain.data.index import Place, Row, Stored
from raytrain.data.schema import content_key
from raytrain.data.split import split

EMPTY_ID = ""
"""In place of a picture's id, in a block of its own: encode the empty caption."""


class Picture(NamedTuple):
    """One usable source picture: content hash, size as viewed in pixels, caption with the trigger word."""

    path: str
    id: str
    width: int
    height: int
    caption: str


class Hashes(NamedTuple):
    """What the encoders are: content hashes of their weights, and the precision they compute in."""

    vae: str
    text: str
    precision: str


class Work(NamedTuple):
    """One row to write; None means encode, a place means copy from there."""

    row: Row
    moments_from: Place | None
    text_from: Place | None


class Plan(NamedTuple):
    """`kept` has the live row numbers of every stored shard; `work` is sorted by bucket, then by where copies lie."""

    kept: dict[str, set[int]]
    work: list[Work]


def rows(pictures: Sequence[Picture], data: DataConfig, seed: int, hashes: Hashes) -> list[Row]:
    """Return the rows that these pictures (of different content) should have in the dataset."""
    sizes = bucket.sizes(data.buckets)
    splits = split([item.id for item in pictures], data.held_out)
    return [_row(item, splits[item.id], bucket.nearest(item.width, item.height, sizes), data, seed, hashes)
            for item in pictures]  # fmt: skip


def compare(wanted: Iterable[Row], stored: Mapping[str, Stored]) -> Plan:
    """Plan how the wanted rows come from the stored ones."""
    places: dict[Row, Place] = {}
    moments: dict[str, Place] = {}
    texts: dict[tuple[str, str], Place] = {}
    for shard, content in sorted(stored.items()):
        for number, row in enumerate(content.rows):
            place = Place(shard, number)
            places.setdefault(row, place)
            moments.setdefault(row.latent_key, place)
            texts.setdefault((row.id, row.text_key), place)
    kept: dict[str, set[int]] = {shard: set() for shard in stored}
    work = []
    for row in wanted:
        if row in places:
            kept[places[row].shard].add(places[row].row)
        else:
            work.append(Work(row, moments.get(row.latent_key), texts.get((row.id, row.text_key))))
    return Plan(kept, sorted(work, key=_order))


def jobs(work: Sequence[Work], shard_rows: int, group_rows: int, workers: int) -> list[list[Work]]:
    """Cut the work into shards: one bucket each, at most `shard_rows` rows, small enough to keep all workers busy."""
    if not work:
        return []
    share = math.ceil(len(work) / (2 * workers) / group_rows) * group_rows if workers > 1 else shard_rows
    length = min(shard_rows, share)
    result: list[list[Work]] = []
    for item in work:
        if result and len(result[-1]) < length and result[-1][0].row.bucket == item.row.bucket:
            result[-1].append(item)
        else:
            result.append([item])
    return result


def to_block(work: Iterable[Work]) -> pa.Table:
    """Return the work of one shard as an Arrow block: what a worker is sent."""
    return pa.Table.from_pylist(
        [
            {**item.row._asdict(), **_place("moments", item.moments_from), **_place("text", item.text_from)}
            for item in work
        ]
    )


def from_block(block: pa.Table) -> list[Work]:
    """Read back the work that `to_block` sent."""
    result = []
    for values in block.to_pylist():
        moments, text = (
            Place(values[f"{name}_shard"], values[f"{name}_row"]) if values[f"{name}_shard"] else None
            for name in ("moments", "text")
        )
        result.append(Work(Row(*(values[name] for name in Row._fields)), moments, text))
    return result


def empty_job() -> list[Work]:
    """Return the job that encodes the empty caption."""
    return [Work(Row(EMPTY_ID, "", "", "", "", "", 0, 0, 0, 0, 0, 0), None, None)]


def _place(name: str, place: Place | None) -> dict[str, str | int]:
    shard, row = place or Place("", 0)
    return {f"{name}_shard": shard, f"{name}_row": row}


def _row(item: Picture, part: str, size: bucket.Size, data: DataConfig, seed: int, hashes: Hashes) -> Row:
    placement = picture.place(item.width, item.height, size, data.crop, item.id, seed)
    transform = (picture.TRANSFORM, size, placement)
    return Row(
        id=item.id,
        split=part,
        path=item.path,
        caption=item.caption,
        latent_key=content_key("moments", item.id, transform, hashes.vae, hashes.precision, "float16"),
        text_key=text_key(item.caption, hashes),
        original_height=item.height,
        original_width=item.width,
        crop_top=placement.top,
        crop_left=placement.left,
        height=size[1],
        width=size[0],
    )


def text_key(caption: str, hashes: Hashes) -> str:
    """Return the content address of an encoded caption (trigger word included)."""
    return content_key("text", caption, hashes.text, hashes.precision, "float16")


def _order(item: Work) -> tuple[str, str, int, str]:
    source = item.moments_from or item.text_from or Place("", 0)
    return item.row.bucket, source.shard, source.row, item.row.path
