"""Finish a preparation: the rows whose arrays are all on storage become a snapshot,
an immutable version of the dataset."""

from __future__ import annotations

import hashlib
import math
import struct
import uuid
from collections.abc import Iterator
from typing import Any

from raytrain import storage
from raytrain.config.data import DataConfig
from raytrain.data.store import drift, leaving, shard, tables
from raytrain.data.store.assemble import write_rows
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.data.store.schema import (
    HELD_OUT,
    MANIFEST,
    SNAPSHOTS,
    TRAIN,
    BucketCount,
    Column,
    Manifest,
    bucket_size,
)

_NUMBERS = """
    CREATE TEMP TABLE shards AS
    SELECT shard, row_number() OVER (ORDER BY shard) AS number
      FROM (SELECT DISTINCT shard FROM all_stored)
"""
_LOCATED = """
    CREATE TEMP TABLE located AS
    WITH stored AS (
      SELECT key, min(s.number << 32 | a.row) AS place FROM all_stored a JOIN shards s
        USING (shard) GROUP BY key)
    SELECT w.row_key, w.store, w.version, w.key, w.crop_top, w.crop_left, s.place, k.reason,
      k.lasting
    FROM arrays w LEFT JOIN stored s USING (key) LEFT JOIN faults k USING (key)
"""
_WHOLE = """
    CREATE TEMP TABLE whole AS
    SELECT r.row_key, r.bucket, r.id, r.repeats, r.weight, r.regularization, r.subset, CASE
      WHEN NOT r.regularization AND CASE WHEN (SELECT bool_or(held_out) FROM rows) THEN r.held_out
        ELSE ('0x' || substr(hex(r.id), 1, 8))::BIGINT < $limit END
        THEN $held_out ELSE $train END AS split
    FROM rows r JOIN (SELECT row_key FROM located GROUP BY row_key HAVING count(place) = count(*))
      USING (row_key)
"""
_REJECTED = """
    SELECT r.path, first(p.reason) AS reason, 'broken' AS rule,
           first(CASE WHEN p.lasting THEN lower(hex(p.key)) ELSE '' END) AS key
    FROM (SELECT * FROM located WHERE place IS NULL AND reason IS NOT NULL ORDER BY key) p
      JOIN rows r USING (row_key)
    GROUP BY r.path, r.number ORDER BY r.number
"""


def publish(
    dataset: str,
    work: str,
    stored: str,
    faults: tuple[str, ...],
    rejected: tuple[str, ...],
    data: DataConfig,
    fingerprint: Fingerprint,
    complete: bool,
) -> dict[str, Any]:
    """Write the snapshot of all rows that are whole, unless the newest one says the same;
    return its number and counts.

    With `complete`, a row that is not whole must have a fault and is listed as rejected. Where one
    has none, or a clean-up of the dataset has just taken what the snapshot would name, there is no
    snapshot: `lost` is true.
    """
    reads: dict[str, Any] = {
        name: (storage.join(work, name), schema) for name, schema in tables.PLANNED.items()
    }
    reads |= {"all_stored": (stored, tables.STORED), "all_faults": (faults, tables.FAULTS)}
    with tables.database(**reads, refused=(rejected, tables.REJECTED)) as sql:
        tables.once(sql, "faults", "all_faults")
        sql.execute(_NUMBERS)
        sql.execute(_LOCATED)
        if complete and _unexplained(sql):
            return {"lost": True}
        sql.execute(_WHOLE, {"limit": data.held_out * 2**32, "held_out": HELD_OUT, "train": TRAIN})
        _correct_split(sql, data.held_out)
        if data.balance == "lcm":
            _even(sql)
        _balance(sql)
        [rows] = sql.execute("SELECT count(*) FROM whole").fetchall()[0]
        [uncaptioned] = sql.execute(
            "SELECT count(*) FROM whole JOIN rows r USING (row_key) WHERE "
            "list_contains($wordless, r.captions[1])",
            {"wordless": ["", *data.triggers()]},
        ).fetchall()[0]
        # In an order of its own: the file's name is a hash of what it lists, and a query's rows
        # come in any order.
        lost = sql.sql(
            f"SELECT * FROM refused UNION ALL SELECT * FROM ({_REJECTED}) "
            "ORDER BY path, rule, reason"
        )
        summary = _write_rejected(dataset, lost)
        result = {"rows": rows, "uncaptioned": uncaptioned}
        result |= {"rules": summary["rules"], "rejected_path": summary["path"]}
        if not rows:
            return result | {"number": 0}
        manifest = _manifest(sql, dataset, work, data, fingerprint, summary, complete)
    return result | _store(dataset, manifest)


def read_manifest(dataset: str) -> Manifest | None:
    """Return the newest snapshot; None where there is none of this version."""
    uri = storage.join(dataset, MANIFEST)
    if not storage.exists(uri):
        return None
    tree = storage.read_json(uri)
    return (
        Manifest.model_validate(tree)
        if tree.get("version") == Manifest.model_fields["version"].default
        else None
    )


def read_snapshot(dataset: str, number: int) -> Manifest:
    """Return a snapshot's manifest."""
    return Manifest.model_validate(storage.read_json(snapshot_path(dataset, number)))


def write_known_faults(dataset: str, known: str) -> int:
    """Write the faults the newest snapshot lists that would recur with the same bytes and
    settings."""
    newest = read_manifest(dataset)
    rejected = (
        tables.read(storage.join(dataset, newest.rejected_path), tables.REJECTED)
        if newest
        else iter(())
    )
    lasting = (row for row in rejected if row["key"])
    lines = (
        {"key": bytes.fromhex(row["key"]), "reason": row["reason"], "lasting": True}
        for row in lasting
    )
    return tables.write_rows(known, lines, tables.FAULTS)


def _unexplained(sql: Any) -> int:
    """Return the number of rows that lack an array without a reason."""
    [lost] = sql.execute("""
        SELECT count(*) FROM (SELECT row_key FROM located GROUP BY row_key
        HAVING count(*) FILTER (place IS NULL) > 0
          AND count(reason) FILTER (place IS NULL) = 0)""").fetchall()[0]
    return int(lost)


def _correct_split(sql: Any, fraction: float) -> None:
    """Keep small sets usable.

    An image is held out when the first 32 bits of its hash, as a share of 2^32, are below
    `fraction`, so that adding images moves no other; regularization images never are. Where the
    sources set images aside themselves, those alone are. Where there
    are two images or more and none falls below, the smallest hash is held out; where all do, the
    largest is trained on, as a lone image is.
    """
    images, out, least, most = sql.execute(
        f"SELECT count(*), count(*) FILTER (split = '{HELD_OUT}'), min(id), max(id) "
        "FROM (SELECT id, min(split) AS split FROM whole WHERE NOT regularization GROUP BY id)"
    ).fetchall()[0]
    if fraction > 0 and images and (out == images or (out == 0 and images > 1)):
        lone, side = (least, HELD_OUT) if out == 0 else (most, TRAIN)
        sql.execute(
            "UPDATE whole SET split = $side WHERE id = $lone AND NOT regularization",
            {"side": side, "lone": lone},
        )


def _even(sql: Any) -> None:
    """Raise the repeats of each subset to the least common multiple of all: then an epoch shows as
    many rows of each."""
    shown = dict(
        sql.execute(
            f"SELECT subset, sum(repeats) FROM whole WHERE split = '{TRAIN}' "
            "AND NOT regularization GROUP BY subset"
        ).fetchall()
    )
    multiple = math.lcm(*map(int, shown.values()))
    for subset, own in shown.items():
        sql.execute(
            "UPDATE whole SET repeats = repeats * $times WHERE subset = $subset "
            "AND NOT regularization",
            {"times": multiple // int(own), "subset": subset},
        )


def _balance(sql: Any) -> None:
    """Raise the repeats of regularization rows until an epoch shows as many of them as of the
    others (kohya's rule)."""
    shown = (
        f"SELECT coalesce(sum(repeats), 0) FROM whole WHERE split = '{TRAIN}' "
        "AND regularization = $other"
    )
    own, [other] = (
        sql.execute(shown, {"other": False}).fetchall()[0][0],
        sql.execute(shown, {"other": True}).fetchall()[0],
    )
    if other and own > other:
        sql.execute(
            """
            UPDATE whole SET repeats = repeats * $whole + CASE
              WHEN ranks.place <= $rest THEN repeats ELSE 0 END
            FROM (SELECT row_key, sum(repeats) OVER (ORDER BY id, bucket) AS place FROM whole
              WHERE regularization) ranks
            WHERE ranks.row_key = whole.row_key
        """,
            {"whole": int(own // other), "rest": int(own % other)},
        )


def _write_rejected(dataset: str, lost: Any) -> dict[str, Any]:
    """Write all that is left out as one file named by its content;
    return its path and the number by rule."""
    rules: dict[str, int] = {}
    digest = hashlib.sha256()

    def counted() -> Iterator[Any]:
        for batch in lost.to_arrow_reader(tables.GROUP):
            for rule, path in zip(
                batch["rule"].to_pylist(), batch["path"].to_pylist(), strict=True
            ):
                rules[rule] = rules.get(rule, 0) + 1
                digest.update(f"{rule}\0{path}\0".encode())
            yield batch

    temporary = f"rejected/{uuid.uuid4().hex}.new"
    tables.write(storage.join(dataset, temporary), counted(), tables.REJECTED)
    path = f"rejected/{digest.hexdigest()[:32]}.parquet"
    storage.move(storage.join(dataset, temporary), storage.join(dataset, path))
    return {"path": path, "rules": rules}


def _manifest(
    sql: Any,
    dataset: str,
    work: str,
    data: DataConfig,
    fingerprint: Fingerprint,
    summary: dict[str, Any],
    complete: bool,
) -> Manifest:
    shards, parts = write_rows(sql, dataset, work, tuple(fingerprint.columns))
    return Manifest(
        complete=complete,
        family=fingerprint.family,
        columns=_columns(dataset, fingerprint),
        fingerprint=_fingerprint(sql),
        buckets=_buckets(sql),
        parts=parts,
        shards=shards,
        rejected=sum(summary["rules"].values()),
        rejected_path=summary["path"],
        bytes=sum(
            storage.size(storage.join(dataset, path))
            for paths in shards.values()
            for path in paths
        ),
        settings=data.model_dump(mode="json"),
    )


def _columns(dataset: str, fingerprint: Fingerprint) -> dict[str, Column]:
    """Return the columns, those made of captions with what their empty captions say of them."""
    found = dict(fingerprint.columns)
    for name in fingerprint.names("caption"):
        key = fingerprint.empty_key(name)
        arrays = shard.read_arrays(dataset, name, key)
        if arrays is None:
            raise RuntimeError(
                f"the empty caption of column {name!r} is not encoded in {dataset!r}"
            )
        found[name] = found[name].model_copy(
            update={"arrays": arrays, "empty": shard.empty_path(name, key)}
        )
    return found


def _buckets(sql: Any) -> dict[str, BucketCount]:
    found = sql.execute(f"""
        SELECT bucket, count(*) FILTER (split = '{TRAIN}'), count(*) FILTER (split = '{HELD_OUT}'),
               coalesce(sum(repeats) FILTER (split = '{TRAIN}'), 0) FROM whole
                 GROUP BY bucket""").fetchall()
    counts = {
        name: BucketCount(train=train, held_out=held, entries=int(shown))
        for name, train, held, shown in found
    }
    return {name: counts[name] for name in sorted(counts, key=bucket_size)}


def _fingerprint(sql: Any) -> str:
    """Return the sha256 over every row's address, split, repeats and weight,
    in the order of bucket and image."""
    found = sql.sql(f"""
        SELECT row_key, split = '{HELD_OUT}' AS held_out, repeats, weight
          FROM whole ORDER BY bucket, id""")
    digest = hashlib.sha256()
    for batch in found.to_arrow_reader(tables.GROUP):
        for key, held_out, repeats, weight in zip(
            *(column.to_pylist() for column in batch.columns), strict=True
        ):
            digest.update(key)
            digest.update(struct.pack("<?qd", held_out, repeats, weight))
    return digest.hexdigest()


def _store(dataset: str, manifest: Manifest) -> dict[str, Any]:
    """Give the snapshot the next number and point the dataset's manifest at it,
    unless the newest one says the same."""
    newest = read_manifest(dataset)
    ignored = {"number", "settings", "bytes"}
    same = newest is not None and newest.model_dump(exclude=ignored) == manifest.model_dump(
        exclude=ignored
    )
    if newest is not None and same and not drift.differences(newest.settings, manifest.settings):
        return {"number": newest.number, "new": False}
    number = max([0, *snapshot_numbers(dataset)])
    while True:
        number += 1
        tree = manifest.model_copy(update={"number": number}).model_dump(mode="json")
        if storage.write_new_json(snapshot_path(dataset, number), tree):
            break
    if leaving.lost(dataset, manifest):
        storage.remove(snapshot_path(dataset, number))
        return {"number": 0, "lost": True}
    storage.write_json(storage.join(dataset, MANIFEST), tree)
    return {"number": number, "new": True}


def snapshot_path(dataset: str, number: int) -> str:
    """Return where a snapshot's manifest is."""
    return storage.join(dataset, SNAPSHOTS, f"{number:06d}.json")


def snapshot_numbers(dataset: str) -> list[int]:
    """Return the numbers of a dataset's snapshots, in order."""
    names = storage.names(storage.join(dataset, SNAPSHOTS))
    return sorted(
        int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit()
    )
