"""Compare the rows a dataset should have with the arrays on storage:
what is missing becomes encoding jobs. SQL over all rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import plugins, storage
from raytrain.config.data import EncodeConfig
from raytrain.data.store import leaving, tables
from raytrain.data.store.fingerprint import Fingerprint

READERS = 16
_ARRAYS = """
    SELECT r.bucket, r.number, r.id, r.mask_id, r.control_id, r.path, r.location, r.mask,
      r.control, a.store, a.input, a.key
    FROM (SELECT * FROM arrays ANTI JOIN stored USING (key) ANTI JOIN faults USING (key)
      WHERE store IN ({})) a
    JOIN rows r USING (row_key)
"""
_TEXTS = (
    "SELECT store, key, input FROM arrays ANTI JOIN stored USING (key) ANTI JOIN faults USING "
    "(key) WHERE store IN ({})"
)
_COUNTS = "SELECT store, bucket, count(DISTINCT key) FROM missing GROUP BY store, bucket"
_TEXT_COUNTS = "SELECT store, count(DISTINCT key) FROM text_work GROUP BY store"
_THERE = "SELECT count(DISTINCT key) FROM (SELECT key FROM arrays) SEMI JOIN stored USING (key)"


def write_stored(dataset: str, stored: str, columns: Iterable[str]) -> int:
    """Write where every array on storage is to the table `stored`; return their number.

    Columns from outside the project are looked for only where they are named. A file that cannot
    be read or is being deleted is left out: what it held is encoded again.
    """
    going = leaving.leaving(dataset)
    stores = sorted({*plugins.names("data.columns"), *columns})
    shards = [
        (store, path)
        for store in stores
        for path in shards_of(dataset, store)
        if path not in going
    ]

    def lines() -> Iterator[pa.Table]:
        with ThreadPoolExecutor(READERS) as pool:
            for part in tables.batched(shards, 4 * READERS):
                keys = pool.map(lambda shard: _keys(storage.join(dataset, shard[1])), part)
                yield from (
                    _places(*shard, found)
                    for shard, found in zip(part, keys, strict=True)
                    if found is not None
                )

    return tables.write(stored, lines(), tables.STORED, 16 * tables.GROUP)


def shards_of(dataset: str, store: str) -> list[str]:
    """Return the paths of a store's shards, relative to the dataset."""
    folder = storage.join(dataset, store)
    names = storage.names(folder)
    inner = [
        f"{name}/{file}"
        for name in names
        if name.startswith("bucket=")
        for file in storage.names(storage.join(folder, name))
    ]
    return [f"{store}/{name}" for name in [*inner, *names] if name.endswith(".parquet")]


def write_jobs(
    work: str,
    stored: str,
    faults: tuple[str, ...],
    fingerprint: Fingerprint,
    encode: EncodeConfig,
    number: int,
    grows: bool,
) -> dict[str, Any]:
    """Write the arrays that are missing under `work`: one row group of two files for each job,
    of a small one where the dataset grows while it is trained on.

    Return them and counts.
    """
    reads: dict[str, Any] = {
        name: (storage.join(work, name), schema) for name, schema in tables.PLANNED.items()
    }
    files = {name: storage.join(work, name, f"{number}.parquet") for name in ("work", "text_work")}
    with tables.database(
        **reads, stored=(stored, tables.STORED), faults=(faults, tables.FAULTS)
    ) as sql:
        sql.execute(
            f"CREATE TEMP TABLE missing AS {_ARRAYS.format(_quoted(fingerprint.names('image')))}"
        )
        counts = dict(
            sql.execute("SELECT bucket, count(*) FROM missing GROUP BY bucket").fetchall()
        )
        missing: dict[str, dict[str, int]] = {}
        for store, bucket, count in sql.execute(_COUNTS).fetchall():
            missing.setdefault(store, {})[bucket] = count
        ordered = sql.sql(
            "SELECT * FROM missing ORDER BY bucket, number, store, key"
        ).to_arrow_reader(tables.GROUP)
        limits = {
            bucket: _limit(count, _row_bytes(bucket, fingerprint), encode, grows)
            for bucket, count in counts.items()
        }
        arrays = tables.write_groups(
            files["work"],
            tables.cut(tables.distinct(ordered), "bucket", limits.__getitem__),
            tables.WORK,
        )
        sql.execute("DROP TABLE missing")
        sql.execute(
            "CREATE TEMP TABLE text_work AS "
            f"{_TEXTS.format(_quoted(fingerprint.names('caption')))}"
        )
        counts = dict(
            sql.execute("SELECT store, count(*) FROM text_work GROUP BY store").fetchall()
        )
        for store, count in sql.execute(_TEXT_COUNTS).fetchall():
            missing[store] = {"": count}
        ordered = sql.sql("SELECT * FROM text_work ORDER BY store, key").to_arrow_reader(
            tables.GROUP
        )
        limits = {store: _limit(count, 0, encode, False) for store, count in counts.items()}
        texts = tables.cut(tables.distinct(ordered), "store", limits.__getitem__)
        captions = tables.write_groups(files["text_work"], texts, tables.TEXT_WORK)
        [there] = sql.execute(_THERE).fetchall()[0]
    return {
        "arrays": arrays, "captions": captions, "there": there, "files": files,
        "missing": {name: missing.get(name, {}) for name in fingerprint.columns},
    }  # fmt: skip


def _limit(count: int, row_bytes: int, encode: EncodeConfig, grows: bool) -> int:
    """Return the rows of one job, which fill one shard: of a sane size,
    and enough jobs to keep all workers busy; where a dataset grows, to publish some early."""
    whole = max(1, min(encode.shard_rows, encode.shard_mb * 2**20 // max(1, row_bytes)))
    workers = max(encode.workers, encode.max_workers or 0)
    if workers == 1 and not grows:
        return whole
    parts = 16 if grows else 2
    share = math.ceil(count / (parts * workers) / encode.group_rows) * encode.group_rows
    return max(1, min(whole, share))


def _row_bytes(bucket: str, fingerprint: Fingerprint) -> int:
    """Return the bytes of the largest array that is stored of an image."""
    images = [fingerprint.columns[name] for name in fingerprint.names("image")]
    return max(
        (array.bytes_in(bucket) for column in images for array in column.arrays.values()),
        default=0,
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "NULL"


def _keys(uri: str) -> pa.ChunkedArray | None:
    filesystem, path = storage.resolve(uri)
    try:
        return pq.read_table(path, columns=["key"], filesystem=filesystem, partitioning=None)[
            "key"
        ].cast(tables.KEY)
    except (pa.ArrowException, OSError, KeyError):
        return None


def _places(store: str, path: str, keys: pa.ChunkedArray) -> pa.Table:
    rows = len(keys)
    columns = [
        pa.repeat(store, rows),
        pa.repeat(path, rows),
        pa.array(np.arange(rows, dtype=np.int32)),
        keys,
    ]
    return pa.table(columns, schema=tables.STORED)
