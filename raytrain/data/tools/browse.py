"""Look into a prepared dataset: its snapshots, what one holds, and all that is known of one row.

Reads only.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from raytrain import storage
from raytrain.data.loading import read
from raytrain.data.store import schema, snapshot, tables
from raytrain.data.store.schema import Manifest
from raytrain.errors import UserError

BUCKET = pa.field("bucket", pa.string())
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
