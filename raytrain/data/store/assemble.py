"""Put together the rows of a snapshot, in order and in parts, from sorted tables:
memory holds one part at a time."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.store import tables
from raytrain.data.store.schema import PLACES, Part, bucket_size, rows_schema

PART_ROWS = 100_000
_ORDER = "ORDER BY w.bucket, w.id"
_USED = (
    "SELECT DISTINCT s.shard, s.number FROM located p JOIN whole w USING (row_key) JOIN shards s "
    "ON s.number = p.place >> 32"
)


def write_rows(
    sql: Any, dataset: str, work: str, columns: Sequence[str]
) -> tuple[dict[str, tuple[str, ...]], tuple[Part, ...]]:
    """Write the rows of table `whole`, with the places of their arrays from `located`;
    return the shards and the parts.

    Rows are sorted by image in each bucket; parts are named by their content. Shards are listed by
    column, in order of their paths: a place counts into that list.
    """
    used = dict(sql.execute(_USED).fetchall())
    shards = {
        store: tuple(sorted(path for path in used if path.split("/")[0] == store))
        for store in columns
    }
    numbers = [
        (used[path], number) for paths in shards.values() for number, path in enumerate(paths)
    ]
    sql.register(
        "numbers",
        pa.table(
            {
                "number": [n for n, _ in numbers],
                "own": pa.array([n for _, n in numbers], pa.int32()),
            }
        ),
    )
    folder = storage.join(work, "assemble", uuid.uuid4().hex)
    facts = _sort_facts(sql, folder, columns)
    places = {store: _Sorted(_sort_places(sql, folder, store)) for store in columns}
    parts = tuple(_part(dataset, table, places) for table in facts)
    storage.remove(folder)
    return shards, tuple(sorted(parts, key=lambda part: bucket_size(part.bucket)))


def _sort_facts(sql: Any, folder: str, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what is known of rows, sorted, with the number of arrays of each column,
    one bucket a table."""
    counts = ", ".join(f"count(*) FILTER (store = '{store}') AS \"{store}\"" for store in columns)
    found = sql.sql(f"""
        SELECT w.bucket, w.row_key, w.id, w.split, r.path, r.location, r.original_height,
               r.original_width, w.repeats, w.weight, w.regularization, r.scores, r.captions,
               {", ".join(f'c."{store}"' for store in columns)}
        FROM whole w JOIN rows r USING (row_key)
          JOIN (SELECT row_key, {counts} FROM located GROUP BY row_key) c USING (row_key)
        {_ORDER}""")
    uri = storage.join(folder, "facts.parquet")
    reader = found.to_arrow_reader(tables.GROUP)
    tables.write_groups(uri, tables.cut(reader, "bucket", lambda bucket: PART_ROWS), reader.schema)
    return (tables.read_group(job["uri"], job["group"]) for job in tables.groups_of(uri))


def _sort_places(sql: Any, folder: str, store: str) -> str:
    """Write where a column's arrays are, in the order of the rows and of their versions."""
    found = sql.sql(
        f"""SELECT n.own AS shard, (p.place & 4294967295)::INTEGER AS row, p.crop_top, p.crop_left
        FROM located p JOIN whole w USING (row_key) JOIN numbers n ON n.number = p.place >> 32
        WHERE p.store = '{store}' {_ORDER}, p.version"""
    )
    uri = storage.join(folder, f"{store}.parquet")
    reader = found.to_arrow_reader(tables.GROUP)
    tables.write(uri, reader, reader.schema, 16 * tables.GROUP)
    return uri


def _part(dataset: str, facts: pa.Table, places: dict[str, _Sorted]) -> Part:
    """Write one part: the rows of `facts`, each with the next places of every column."""
    schema = rows_schema(places)
    content: dict[str, Any] = {
        name: facts[name] for name in facts.column_names if name in schema.names
    }
    for store, own in places.items():
        offsets = np.concatenate([[0], np.cumsum(facts[store].to_numpy())]).astype(np.int32)
        found = own.take(int(offsets[-1]))
        values = pa.StructArray.from_arrays(
            [found[field.name].combine_chunks().cast(field.type) for field in PLACES.value_type],
            fields=list(PLACES.value_type),
        )
        content[store] = pa.ListArray.from_arrays(offsets, values, type=PLACES)
    table = pa.table({name: content[name] for name in schema.names}).cast(schema)
    bucket = facts["bucket"][0].as_py()
    path = f"rows/bucket={bucket}/{tables.digest(table)[:32]}.parquet"
    tables.write(storage.join(dataset, path), [table], schema)
    return Part(path=path, bucket=bucket, rows=len(table))


class _Sorted:
    """Reads a table from its beginning, as many rows at a time as are asked for."""

    def __init__(self, uri: str) -> None:
        filesystem, path = storage.resolve(uri)
        self.file = pq.ParquetFile(path, filesystem=filesystem)
        self.batches = self.file.iter_batches()
        self.rest: pa.Table = self.file.schema_arrow.empty_table()

    def take(self, rows: int) -> pa.Table:
        """Return the next rows."""
        held = [self.rest]
        while sum(map(len, held)) < rows:
            held.append(pa.Table.from_batches([next(self.batches)]))
        table = pa.concat_tables(held)
        self.rest = table.slice(rows)
        return table.slice(0, rows)
