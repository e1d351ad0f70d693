"""The tables that preparation passes from stage to stage, and the database that joins them.

Every stage reads parquet tables and writes parquet tables; a stage that needs to see all rows at
once is one SQL query. DuckDB runs it out of core under a memory limit, so no process holds a
million rows, least of all the driver.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.item import Rejected

Entry = TypeVar("Entry")

MEMORY = "400MB"
"""What the queries of one process may hold; beyond it DuckDB spills to disk."""
MERGED = "merged"
"""What the name of a part begins with that `raytrain data gc` made of many;
its metadata of this name lists them."""
GROUP = 4096
"""Rows of a row group, unless a stage cuts its jobs otherwise."""

KEY, TEXT, TEXTS = pa.binary(32), pa.string(), pa.list_(pa.string())
"""A key is a sha256: a content address."""
SHORT, LONG, REAL, REALS, FLAG = (
    pa.int32(),
    pa.int64(),
    pa.float64(),
    pa.list_(pa.float64()),
    pa.bool_(),
)


def _columns(**types: Any) -> Any:
    return pa.schema(types)


_PLACE = {"path": TEXT, "location": TEXT, "mask": TEXT, "control": TEXT}
_HASHES = {"id": KEY, "mask_id": KEY, "control_id": KEY}
_SHARE = {
    "repeats": SHORT,
    "weight": REAL,
    "regularization": FLAG,
    "held_out": FLAG,
    "subset": SHORT,
}
_WORDS = {
    "prefix": TEXT,
    "suffix": TEXT,
    "caption_settings": TEXT,
    "site": TEXT,
    "captions": TEXTS,
}

ITEMS = _columns(key=KEY, number=LONG, **_PLACE, caption_file=TEXT, **_WORDS, **_SHARE)
"""One line for each image the sources list; `number` is its place in the listing,
`key` the address of its scan."""

SCANS = _columns(
    key=KEY,
    reason=TEXT,
    **_HASHES,
    width=SHORT,
    height=SHORT,
    transparent=FLAG,
    appearance=pa.uint64(),
    texts=TEXTS,
    ready=TEXT,
)
"""What scanning an image found: content hashes, size as viewed, whether it needs a background,
its captions, its perceptual hash, the facts of latents that come ready, or why it is broken."""

IMAGES = _columns(
    number=LONG,
    **_HASHES,
    **_PLACE,
    **_WORDS,
    width=SHORT,
    height=SHORT,
    transparent=FLAG,
    ready=TEXT,
    **_SHARE,
    scores=REALS,
    quality=REAL,
    center=REALS,
    face=REALS,
)
"""The images that go into the dataset, each content once, with what was said of them: scores in
the order of [[data.quality.scores]], the one that quality tags read, the center of the mask as (x,
y) fractions, and that and the size of the largest face."""

NEEDED = IMAGES.append(pa.field("key", KEY))
"""Images that still need an annotation, and its address."""

ANNOTATIONS = _columns(key=KEY, id=KEY, maker=TEXT, texts=TEXTS, numbers=REALS)
"""What a captioner or scorer said of an image, by the content address of (its version, the image);
`maker` is its name, weights, prompt and version as JSON."""

ROWS = _columns(
    row_key=KEY, number=LONG, **_HASHES, bucket=TEXT, **_PLACE, original_height=SHORT,
    original_width=SHORT, **_SHARE, scores=REALS, captions=TEXTS,
)  # fmt: skip
"""One line for each row of the dataset: an image in one bucket. `row_key` is the hash of all the
row is made of."""

ARRAYS = _columns(
    row_key=KEY, store=TEXT, version=SHORT, key=KEY, input=TEXT, crop_top=SHORT, crop_left=SHORT
)
"""The arrays a row is made of. `store` is the column, `version` counts those of one column,
`input` is the transform of the image or the caption."""

WORK = _columns(bucket=TEXT, number=LONG, **_HASHES, **_PLACE, store=TEXT, input=TEXT, key=KEY)
"""Arrays of images to make."""

TEXT_WORK = _columns(store=TEXT, key=KEY, input=TEXT)
"""Captions to encode."""

STORED = _columns(store=TEXT, shard=TEXT, row=SHORT, key=KEY)
"""Where every stored array is."""

FAULTS = _columns(key=KEY, reason=TEXT, lasting=FLAG)
"""Annotations and arrays that could not be made; a lasting fault would recur."""

PLANNED = {"rows": ROWS, "arrays": ARRAYS}
"""The tables of the rows a dataset should have, by the name of their folder."""

REJECTED = _columns(**dict.fromkeys(Rejected.model_fields, TEXT))


@contextlib.contextmanager
def database(**tables: tuple[str | Sequence[str], pa.Schema]) -> Iterator[Any]:
    """Open a connection to DuckDB; each keyword is a table: its parquet file, or folders of parts,
    and its schema.

    These and what is made as TEMP are seen by no other connection, and gone with this one.
    """
    with contextlib.closing(_instance().cursor()) as connection:
        for name, (places, schema) in tables.items():
            connection.register(name, open_table(places, schema))
        yield connection


@functools.cache
def _instance() -> Any:
    """This process's DuckDB, in memory: starting one takes 20 ms,
    and preparing opens ten connections."""
    import duckdb

    spill = tempfile.TemporaryDirectory(prefix="raytrain-sql-")
    atexit.register(spill.cleanup)
    return duckdb.connect(
        config={
            "memory_limit": MEMORY,
            "threads": 2,
            "temp_directory": spill.name,
            "preserve_insertion_order": False,
        }
    )


def once(sql: Any, name: str, table: str) -> None:
    """Define the view `name`: the lines of a registered table, each key once.

    Only concurrent runs leave a key twice. Then DISTINCT ON holds all lines in memory; otherwise
    nothing does.
    """
    [lines, keys] = sql.execute(f"SELECT count(*), count(DISTINCT key) FROM {table}").fetchall()[0]
    sql.execute(
        f"CREATE TEMP VIEW {name} AS SELECT "
        f"{'* ' if lines == keys else 'DISTINCT ON (key) * '}FROM {table}"
    )


def open_table(places: str | Sequence[str], schema: pa.Schema) -> Any:
    """Return the parquet parts at a file or folder (or several) as one lazy table;
    an absent folder is an empty table."""
    parts = [
        part
        for place in ([places] if isinstance(places, str) else places)
        for part in parts_of(place)
    ]
    if not parts:
        return schema.empty_table()
    filesystem = storage.resolve(parts[0])[0]
    return pads.dataset(
        [storage.resolve(part)[1] for part in parts],
        schema=schema,
        filesystem=filesystem,
        format="parquet",
    )


def parts_of(uri: str) -> list[str]:
    """Return the parquet files of a table: the file itself, or all in the folder;
    an unfinished one is no part."""
    if (uri if storage.is_local(uri) else uri.partition("?")[0]).endswith(".parquet"):
        return [uri] if storage.exists(uri) else []
    names = [name for name in storage.names(uri) if name.endswith(".parquet")]
    merged = [name for name in names if name.startswith(MERGED)]
    replaced = {part for name in merged for part in stands_for(storage.join(uri, name))}
    return [storage.join(uri, name) for name in names if name not in replaced]


def stands_for(uri: str) -> list[str]:
    """Return the names of the parts whose lines this part holds too; readers leave those out."""
    filesystem, path = storage.resolve(uri)
    metadata = pq.read_schema(path, filesystem=filesystem).metadata or {}
    return list(json.loads(metadata.get(MERGED.encode(), b"[]")))


def write(uri: str, batches: Iterable[Any], schema: pa.Schema, group_rows: int = GROUP) -> int:
    """Write record batches or tables as one part, whole or not at all, in row groups of a size;
    return its rows."""
    return write_groups(uri, regroup(batches, group_rows), schema)


def write_groups(uri: str, groups: Iterable[pa.Table], schema: pa.Schema) -> int:
    """Write one part, whole or not at all, a row group for each table given; return its rows."""
    rows = 0
    with (
        storage.atomic(uri) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for group in groups:
            if len(group):
                writer.write_table(
                    group.select(schema.names).cast(schema), row_group_size=len(group)
                )
                rows += len(group)
    return rows


def write_rows(
    uri: str, rows: Iterable[dict[str, Any]], schema: pa.Schema, group_rows: int = GROUP
) -> int:
    """Write dictionaries as one part, whole or not at all, holding one row group at a time;
    return its rows."""
    return write_groups(
        uri, (pa.Table.from_pylist(part, schema) for part in batched(rows, group_rows)), schema
    )


def batched(items: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Cut into lists of at most `size`."""
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def read(uri: str, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, one part's row group in memory at a time."""
    for job in groups_of(uri):
        yield from read_group(job["uri"], job["group"]).select(schema.names).to_pylist()


def read_group(uri: str, group: int) -> pa.Table:
    """Return one row group of a part."""
    filesystem, path = storage.resolve(uri)
    with pq.ParquetFile(path, filesystem=filesystem) as file:
        return file.read_row_group(group)


def groups_of(uri: str) -> list[dict[str, Any]]:
    """Return a reference to every row group of a table, {"uri", "group", "rows"}:
    what a worker is sent."""
    found = []
    for part in parts_of(uri):
        filesystem, path = storage.resolve(part)
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            sizes = [
                file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)
            ]
        found += [
            {"uri": part, "group": number, "rows": rows} for number, rows in enumerate(sizes)
        ]
    return found


def digest(table: pa.Table) -> str:
    """Return the sha256 over a table's content, however it is cut into chunks."""
    found = hashlib.sha256()
    sink = pa.PythonFile(_Hashing(found), mode="w")
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return found.hexdigest()


class _Hashing:
    """A file that only hashes what is written."""

    closed = False

    def __init__(self, found: Any) -> None:
        self.write = found.update


def cut(
    batches: Iterable[pa.RecordBatch], by: str, limit: Callable[[Any], int]
) -> Iterator[pa.Table]:
    """Cut rows sorted by column `by` into tables of one value each,
    of at most `limit(value)` rows."""
    held: list[pa.Table] = []
    value: Any = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        for start, stop, own in _runs(table[by].to_pylist()):
            if held and own != value:
                yield pa.concat_tables(held)
                held = []
            value = own
            while start < stop:
                room = limit(own) - sum(len(part) for part in held)
                take = min(stop - start, room)
                held.append(table.slice(start, take))
                start += take
                if take == room:
                    yield pa.concat_tables(held)
                    held = []
    if held:
        yield pa.concat_tables(held)


def distinct(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Leave out rows whose key is that of the row before: of rows sorted by key each key stays
    once.

    SQL's DISTINCT ON would hold every row in memory; its ORDER BY does not.
    """
    last = None
    for batch in batches:
        keys = batch["key"].to_pylist()
        yield batch.filter(
            pa.array([key != before for key, before in zip(keys, [last, *keys], strict=False)])
        )
        last = keys[-1] if keys else last


def _runs(values: Sequence[Any]) -> Iterator[tuple[int, int, Any]]:
    start = 0
    for value, group in itertools.groupby(values):
        stop = start + sum(1 for _ in group)
        yield start, stop, value
        start = stop


def regroup(batches: Iterable[Any], size: int) -> Iterator[pa.Table]:
    """Re-chunk record batches or tables into tables of `size` rows; the last has fewer."""
    held: list[pa.Table] = []
    count = 0
    for batch in batches:
        held.append(pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch)
        count += len(held[-1])
        while count >= size:
            whole = pa.concat_tables(held)
            yield whole.slice(0, size)
            held, count = [whole.slice(size)], count - size
    if count:
        yield pa.concat_tables(held)
