"""Look into a prepared dataset: its snapshots, what one holds, and all that is known of one row.

Reads only.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Grid

from raytrain import storage
from raytrain.data.loading import read
from raytrain.data.store import schema, snapshot, tables
from raytrain.data.store.schema import Array, Manifest
from raytrain.errors import UserError

BUCKET = pa.field("bucket", pa.string())
EXAMPLES = 3
"""Rejected images shown for each rule."""
LEAST_ID = 6
"""Digits of an image's hash that are enough to name it."""


Row = dict[str, Any]
"""One row of a snapshot: its columns (of `bucketed`)."""


def open_snapshot(dataset: str, which: str = "latest") -> Manifest:
    """Return a snapshot's manifest; UserError where there is no dataset, or no such snapshot."""
    if not storage.exists(storage.join(dataset, schema.MANIFEST)):
        inner = storage.join(dataset, "dataset")
        hint = (
            f" {inner!r} is one." if storage.exists(storage.join(inner, schema.MANIFEST)) else ""
        )
        raise UserError(
            f"{dataset!r} is no prepared dataset: it has no {schema.MANIFEST}.{hint} Give the "
            "folder that `raytrain prepare` wrote (data.dataset, or `dataset` in the run's "
            "folder), or the config file."
        )
    known = snapshot.snapshot_numbers(dataset)
    if which != "latest" and (not which.isdigit() or int(which) not in known):
        raise UserError(
            f"{dataset!r} has no snapshot {which!r}. It has "
            f"{', '.join(map(str, known)) or 'none'}, and `latest`; others may have been deleted "
            "by `raytrain data gc --keep`."
        )
    return read.open_manifest(dataset, which)


def bucketed(manifest: Manifest) -> pa.Schema:
    """Return the columns of a snapshot's rows, and the bucket they are in."""
    return schema.rows_schema(manifest.columns).append(BUCKET)


def rows_table(dataset: str, manifest: Manifest) -> Any:
    """Return the rows of a snapshot as one lazy table with the columns of `bucketed`."""
    if not manifest.parts:
        return bucketed(manifest).empty_table()
    paths = [storage.resolve(storage.join(dataset, part.path)) for part in manifest.parts]
    return pads.dataset(
        [path for _, path in paths],
        schema=bucketed(manifest),
        filesystem=paths[0][0],
        format="parquet",
        partitioning=pads.partitioning(pa.schema([BUCKET]), flavor="hive"),
        partition_base_dir=storage.resolve(dataset)[1],
    )


def snapshots(dataset: str) -> RenderableType:
    """Return the table of a dataset's snapshots, the newest marked."""
    newest = open_snapshot(dataset)
    times = {
        file.path: file.modified for file in storage.files(storage.join(dataset, schema.SNAPSHOTS))
    }
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("no.", "made", "rows", "buckets", "size", "content", "made with", "state"):
        grid.add_column(
            name,
            justify="right" if name in ("no.", "rows", "buckets", "size") else "left",
            no_wrap=True,
        )
    for number in snapshot.snapshot_numbers(dataset):
        one = open_snapshot(dataset, str(number))
        made = datetime.datetime.fromtimestamp(times.get(f"{number:06d}.json", 0)).astimezone()
        rows = sum(count.train + count.held_out for count in one.buckets.values())
        mark = "*" if number == newest.number else " "
        grid.add_row(
            f"{number} {mark}",
            f"{made:%Y-%m-%d %H:%M}",
            f"{rows:,}",
            str(len(one.buckets)),
            size(one.bytes),
            one.fingerprint[:8],
            escape(_made_with(one)),
            "complete" if one.complete else "partial",
        )
    return grid


def overview(dataset: str, manifest: Manifest) -> RenderableType:
    """Return what a snapshot holds: buckets, columns, and what was left out with the first
    examples of each rule."""
    buckets = Grid("bucket", "train", "held out", "shown an epoch")
    for name, count in manifest.buckets.items():
        buckets.add_row(name, f"{count.train:,}", f"{count.held_out:,}", f"{count.entries:,}")
    stored = Grid("column", "arrays", "shards", "size", "made with")
    for name, column in manifest.columns.items():
        paths = manifest.shards[name]
        arrays = "\n".join(
            f"{array} {one.dtype} {_shape(one)}" for array, one in column.arrays.items()
        )
        made = "\n".join(f"{fact} {value[:12]}" for fact, value in column.version.items())
        bytes_ = sum(storage.size(storage.join(dataset, path)) for path in paths)
        stored.add_row(name, escape(arrays), str(len(paths)), size(bytes_), escape(made))
    state = "complete" if manifest.complete else "partial: preparation had not ended"
    lines = [
        f"Snapshot {manifest.number} of {escape(dataset)} ({state})",
        f"made with {escape(_made_with(manifest))}",
        f"fingerprint {manifest.fingerprint}",
    ]
    return Group(*lines, buckets, stored, *_left_out(dataset, manifest))


def _left_out(dataset: str, manifest: Manifest) -> Iterator[RenderableType]:
    if not manifest.rejected:
        yield "Nothing was left out."
        return
    counts: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for row in tables.read(storage.join(dataset, manifest.rejected_path), tables.REJECTED):
        counts[row["rule"]] = counts.get(row["rule"], 0) + 1
        own = examples.setdefault(row["rule"], [])
        if len(own) < EXAMPLES:
            own.append(f"{shown(row['path'])}: {row['reason']}")
    grid = Grid("left out by rule", "images", "the first of them")
    for rule, count in sorted(counts.items()):
        grid.add_row(rule, f"{count:,}", escape("\n".join(examples[rule])))
    yield grid
    yield (
        "All that was left out, with its reason: "
        f"{escape(storage.join(dataset, manifest.rejected_path))}"
    )


def find_rows(dataset: str, manifest: Manifest, name: str) -> list[Row]:
    """Return the rows of an image, one for each of its buckets,
    by its path or the first digits of its hash.

    Raises UserError where there is none, and says why it was left out, or names close matches.
    """
    digits = (
        name.lower()
        if len(name) >= LEAST_ID and not set(name.lower()) - set("0123456789abcdef")
        else "-"
    )
    rejected = (storage.join(dataset, manifest.rejected_path), tables.REJECTED)
    with tables.database(rejected=rejected) as sql:
        sql.register("rows", rows_table(dataset, manifest))
        query = (
            "SELECT * FROM rows WHERE path = $name OR starts_with(lower(hex(id)), $digits) ORDER "
            "BY path, bucket"
        )
        found = sql.sql(query, params={"name": name, "digits": digits}).to_arrow_table()
        if len(found):
            return list(found.to_pylist())
        refused = sql.execute(
            "SELECT rule, reason FROM rejected WHERE path = $name", {"name": name}
        ).fetchall()
        if refused:
            raise UserError(
                f"{name!r} is not in snapshot {manifest.number}: it was left out by rule "
                f"{refused[0][0]!r}: {refused[0][1]}."
            )
        near = sql.execute(
            "SELECT path FROM rows ORDER BY jaro_winkler_similarity(path, $name) DESC, path LIMIT "
            "1",
            {"name": name},
        ).fetchall()
    hint = f" Did you mean {near[0][0]!r}?" if near else ""
    raise UserError(
        f"Snapshot {manifest.number} of {dataset!r} has no row {name!r}.{hint} Give an image's "
        f"path as the source lists it, or at least the first {LEAST_ID} digits of the sha256 of "
        "its file."
    )


def places(row: Row, manifest: Manifest, name: str) -> list[tuple[str, int]]:
    """Return the shard's path and the row in it of every version of one column;
    none where it is not stored."""
    return [(manifest.shards[name][place["shard"]], place["row"]) for place in row.get(name, ())]


def everything(row: Row, manifest: Manifest) -> RenderableType:
    """Return all that is known of one row."""
    grid = Grid("", Column(shown(row["path"]), overflow="fold"), show_lines=True)
    scores = [score["name"] for score in manifest.settings.get("quality", {}).get("scores", ())]
    facts = {
        "id": row["id"].hex(),
        "location": row["location"],
        "captions": "\n".join(row["captions"] or ()) or "(none)",
        "image": f"{row['original_width']}x{row['original_height']}",
        "bucket": row["bucket"],
        "split": row["split"] + (", regularization" if row["regularization"] else ""),
        "repeats": str(row["repeats"]),
        "weight": f"{row['weight']:g}",
        "scores": "\n".join(
            f"{name} {value:.6g}"
            for name, value in itertools.zip_longest(scores, row["scores"] or (), fillvalue="?")
            if isinstance(value, float)
        ),
    }
    for name, column in manifest.columns.items():
        facts[name] = "\n".join(
            f"version {number}: row {at} of {path}"
            + (f", cut at {_cut(place)}" if column.of == "image" else "")
            for number, ((path, at), place) in enumerate(
                zip(places(row, manifest, name), row[name], strict=True)
            )
        )
    for name, text in facts.items():
        if text:
            grid.add_row(name, escape(text))
    return grid


def _cut(place: dict[str, int]) -> str:
    return f"top {place['crop_top']}, left {place['crop_left']}"


def _shape(array: Array) -> str:
    sides = (
        *map(str, array.shape),
        *((f"H/{array.cell}", f"W/{array.cell}") if array.cell else ()),
    )
    return f"({', '.join(sides)})"


def _made_with(manifest: Manifest) -> str:
    captions = manifest.settings.get("captions", {})
    makers = [
        name
        for name in (captions.get("captioner"), captions.get("rewriter"))
        if name and name != "none"
    ]
    return ", ".join([manifest.family, *makers])


def size(count: int) -> str:
    """Write a number of bytes for people.

    >>> size(1536)
    '1.5 KiB'
    """
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def shown(path: str) -> str:
    """Write a path on one line, whatever its name holds."""
    return repr(path) if not path.isprintable() else path
