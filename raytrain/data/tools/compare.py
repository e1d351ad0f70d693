"""What differs between two snapshots: rows added, removed and changed, and the settings.

SQL over all rows.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from raytrain.data.pipeline import plan_encoding
from raytrain.data.store import tables
from raytrain.data.store.schema import Manifest
from raytrain.data.tools.browse import open_snapshot, rows_table
from raytrain.table import Names, Table

_PAIRED_BY = (("id", "bucket"), ("path", "bucket"), ("id",), ("path",))
"""What makes two rows the same one, the surest first: an image in its bucket, then a file whose
content changed, an image that went to another bucket, and a file whose content and bucket
changed."""
_PAIR = """
    INSERT INTO pairs
    WITH o AS (SELECT number, {keys},
      row_number() OVER (PARTITION BY {keys} ORDER BY id, bucket, path) AS place
               FROM old ANTI JOIN (SELECT old AS number FROM pairs) USING (number)),
         n AS (SELECT number, {keys}, row_number() OVER (PARTITION BY {keys}
           ORDER BY id, bucket, path) AS place
               FROM new ANTI JOIN (SELECT new AS number FROM pairs) USING (number))
    SELECT o.number, n.number FROM o JOIN n USING ({keys}, place)
"""
_KINDS = {
    "image": "o.id <> n.id",
    "bucket": "o.bucket <> n.bucket",
    "path": "o.path <> n.path",
    "captions": "o.captions IS DISTINCT FROM n.captions",
    "split": "o.split <> n.split",
    "repeats": "o.repeats <> n.repeats",
    "weight": "o.weight <> n.weight",
    "regularization": "o.regularization <> n.regularization",
    "scores": "o.scores IS DISTINCT FROM n.scores",
}
"""What can differ between the two rows of a pair; in addition, each column: other cuts,
other augmented versions, another VAE."""
_COLUMN = {
    "image": "list_contains(a.stores, '{name}')",
    "caption": "list_contains(a.stores, '{name}') AND o.captions IS NOT DISTINCT FROM n.captions",
}
_KEYS = """
    SELECT p.{side} AS number, '{store}' AS store, list(s.key ORDER BY p.version) AS keys
    FROM (SELECT m.{side}, unnest(r."{store}") AS place, unnest(range(len(r."{store}"))) AS version
          FROM moved m JOIN {side} o ON o.number = m.{side} JOIN {side}_rows r ON r.id = o.id
            AND r.bucket = o.bucket) p
    JOIN {side}_shards h ON h.store = '{store}' AND h.number = p.place.shard
    LEFT JOIN stored s ON s.shard = h.shard AND s.row = p.place.row
    GROUP BY p.{side}
"""


class Change(Table):
    """One row that differs."""

    path: str
    bucket: str
    kinds: Names = ()


class Difference(Table):
    """What differs between two snapshots."""

    old: int
    new: int
    same: int
    added: int
    removed: int
    changed: int
    kinds: dict[str, int]
    """What changed -> rows; a row may be in several."""
    first_added: tuple[Change, ...]
    first_removed: tuple[Change, ...]
    first_changed: tuple[Change, ...]
    settings: dict[str, tuple[Any, Any]]
    """Dotted key -> (old, new) of what the snapshots were made with, where it differs."""


def difference(dataset: str, old: str, new: str, first: int = 10) -> Difference:
    """Compare two snapshots (a number, or `latest`); keep the `first` rows of each kind.

    Memory does not grow with the rows.
    """
    sides = {"old": open_snapshot(dataset, old), "new": open_snapshot(dataset, new)}
    with tables.database() as sql, tempfile.TemporaryDirectory(prefix="raytrain-diff-") as folder:
        for side, manifest in sides.items():
            sql.register(f"{side}_rows", rows_table(dataset, manifest))
            sql.execute(f"""
                CREATE TEMP TABLE {side} AS SELECT row_number() OVER () AS number, row_key, id,
                  bucket, path, captions,
                split, repeats, weight, regularization, scores FROM {side}_rows""")
        sql.execute("CREATE TEMP TABLE pairs (old BIGINT, new BIGINT)")
        for keys in _PAIRED_BY:
            sql.execute(_PAIR.format(keys=", ".join(keys)))
        _compare_arrays(sql, dataset, sides, os.path.join(folder, "stored.parquet"))
        conditions = _KINDS | {
            name: _COLUMN[of].format(name=name) for name, of in _columns(sides.values()).items()
        }
        kinds = ", ".join(
            f"CASE WHEN {condition} THEN '{kind}' END" for kind, condition in conditions.items()
        )
        sql.execute(f"""
            CREATE TEMP TABLE changed AS SELECT * FROM (
              SELECT n.path, n.bucket, list_filter([{kinds}],
                lambda kind: kind IS NOT NULL) AS kinds
              FROM pairs p JOIN old o ON o.number = p.old JOIN new n ON n.number = p.new
              LEFT JOIN arrays a ON a.number = p.old) WHERE len(kinds) > 0""")
        lone = {
            side: f"{side} ANTI JOIN (SELECT {side} AS number FROM pairs) USING (number)"
            for side in sides
        }
        sources = {"added": lone["new"], "removed": lone["old"], "changed": "changed"}
        counts = {
            name: _count(sql, table) for name, table in (*sources.items(), ("pairs", "pairs"))
        }
        tally = dict(
            sql.execute(
                "SELECT kind, count(*) FROM (SELECT unnest(kinds) AS kind FROM changed) GROUP BY "
                "kind"
            ).fetchall()
        )
        found = {
            name: _first(sql, table, first, "kinds" if name == "changed" else "[]")
            for name, table in sources.items()
        }
    return Difference(
        old=sides["old"].number,
        new=sides["new"].number,
        same=counts["pairs"] - counts["changed"],
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        kinds={kind: tally[kind] for kind in conditions if kind in tally},
        first_added=found["added"],
        first_removed=found["removed"],
        first_changed=found["changed"],
        settings=_settings(sides["old"], sides["new"]),
    )


def _columns(manifests: Iterable[Manifest]) -> dict[str, str]:
    """Return the columns that any of the snapshots stores, and what each is made of."""
    return {name: column.of for manifest in manifests for name, column in manifest.columns.items()}


def _count(sql: Any, table: str) -> int:
    return int(sql.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _first(sql: Any, table: str, limit: int, kinds: str) -> tuple[Change, ...]:
    rows = sql.execute(
        f"SELECT path, bucket, {kinds} FROM {table} ORDER BY path, bucket LIMIT {limit}"
    ).fetchall()
    return tuple(Change(path=path, bucket=bucket, kinds=kinds) for path, bucket, kinds in rows)


def _compare_arrays(sql: Any, dataset: str, sides: Mapping[str, Manifest], stored: str) -> None:
    """Write the table `arrays`: of pairs that show the same image in the same bucket,
    the columns whose arrays differ.

    Rows of one address are made of the same arrays. Of the others the content addresses are
    compared; a place says too little, since two preparations at once may have stored one array
    twice.
    """
    sql.execute("""
        CREATE TEMP TABLE moved AS SELECT p.* FROM pairs p JOIN old o ON o.number = p.old
          JOIN new n ON n.number = p.new
        WHERE o.id = n.id AND o.bucket = n.bucket AND o.row_key <> n.row_key""")
    sql.execute("CREATE TEMP TABLE arrays (number BIGINT, stores VARCHAR[])")
    if not _count(sql, "moved"):
        return
    plan_encoding.write_stored(dataset, stored, _columns(sides.values()))
    sql.register("stored", tables.open_table(stored, tables.STORED))
    for side, manifest in sides.items():
        numbers = [
            (store, n, path)
            for store in manifest.columns
            for n, path in enumerate(manifest.shards[store])
        ]
        columns = zip(*numbers, strict=True)
        sql.register(
            f"{side}_shards",
            pa.table(dict(zip(("store", "number", "shard"), map(list, columns), strict=True))),
        )
        each = " UNION ALL ".join(
            _KEYS.format(side=side, store=store) for store in manifest.columns
        )
        sql.execute(f"CREATE TEMP TABLE {side}_keys AS {each}")
    sql.execute("""
        INSERT INTO arrays SELECT number, list(store) FROM (
          SELECT coalesce(o.number, n.old) AS number, coalesce(o.store, n.store) AS store
          FROM old_keys o FULL JOIN (SELECT m.old, k.* FROM new_keys k JOIN moved m
            ON m.new = k.number) n
          ON n.old = o.number AND n.store = o.store WHERE o.keys IS DISTINCT FROM n.keys)
            GROUP BY number""")


def _settings(old: Manifest, new: Manifest) -> dict[str, tuple[Any, Any]]:
    one, other = _flat(old), _flat(new)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    }


def _flat(manifest: Manifest) -> dict[str, Any]:
    made = {
        f"{name}: {fact}": value[:12]
        for name, column in manifest.columns.items()
        for fact, value in column.version.items()
    }
    return made | _flattened(manifest.settings, "data.")


def _flattened(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flattened(value, f"{prefix}{key}.")
            if isinstance(value, Mapping)
            else {f"{prefix}{key}": value}
        )
    return flat
