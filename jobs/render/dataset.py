"""A dataset's snapshots, what one holds, and one row, as tables."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column
from rich.table import Table as Grid

from raytrain import storage
from raytrain.data.store import schema, snapshot, tables
from raytrain.data.store.schema import Array, Manifest
from raytrain.data.tools.browse import Row, open_snapshot, places, shown, size

EXAMPLES = 3
"""Rejected images shown for each rule."""


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
