"""Compare the rows a dataset should have with the arrays on storage: what is missing becomes encoding jobs. SQL over all rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data import leaving, tables
from raytrain.data.recipe import Recipe
from raytrain.data.schema import STORES, bucket_size
from raytrain.dataconfig import EncodeConfig

READERS = 16
_ARRAYS = """
    SELECT r.bucket, r.number, r.id, r.mask_id, r.control_id, r.path, r.location, r.mask, r.control, a.store, a.transform, a.key
    FROM (SELECT * FROM arrays ANTI JOIN stored USING (key) ANTI JOIN faults USING (key)) a JOIN rows r USING (row_key)
"""
_TEXTS = "SELECT key, caption FROM captions ANTI JOIN stored USING (key) ANTI JOIN faults USING (key)"
_THERE = """
    SELECT count(DISTINCT key) FROM (SELECT key FROM arrays UNION ALL SELECT key FROM captions) SEMI JOIN stored USING (key)
"""


def write_stored(dataset: str, stored: str) -> int:
    """Write where every array on storage is to the table `stored`; return their number.

    A file that cannot be read or is being deleted is left out: what it held is encoded again.
    """
    going = leaving.leaving(dataset)
    shards = [(store, path) for store in STORES for path in shards_of(dataset, store) if path not in going]

    def lines() -> Iterator[pa.Table]:
        with ThreadPoolExecutor(READERS) as pool:
            for part in tables.batched(shards, 4 * READERS):
                keys = pool.map(lambda shard: _keys(storage.join(dataset, shard[1])), part)
                yield from (
                    _places(*shard, found) for shard, found in zip(part, keys, strict=True) if found is not None
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


def write_missing(
    work: str, stored: str, faults: tuple[str, ...], recipe: Recipe, encode: EncodeConfig, number: int
) -> dict[str, Any]:
    """Write what is missing under `work`: one row group of two files for each job. Return them and counts."""
    reads: dict[str, Any] = {name: (storage.join(work, name), schema) for name, schema in tables.DESCRIBED.items()}
    files = {name: storage.join(work, name, f"{number}.parquet") for name in ("work", "text_work")}
    with tables.database(**reads, stored=(stored, tables.STORED), faults=(faults, tables.FAULTS)) as sql:
        sql.execute(f"CREATE TEMP TABLE missing AS {_ARRAYS}")
        counts = dict(sql.execute("SELECT bucket, count(*) FROM missing GROUP BY bucket").fetchall())
        ordered = sql.sql("SELECT * FROM missing ORDER BY bucket, number, store, key").to_arrow_reader(tables.GROUP)
        limits = {bucket: _limit(count, _moments_bytes(bucket, recipe), encode) for bucket, count in counts.items()}
        arrays = tables.write_groups(
            files["work"], tables.cut(tables.distinct(ordered), "bucket", limits.__getitem__), tables.WORK
        )
        sql.execute("DROP TABLE missing")
        sql.execute(f"CREATE TEMP TABLE text_work AS {_TEXTS}")
        [captions] = sql.execute("SELECT count(*) FROM text_work").fetchall()[0]
        ordered = sql.sql("SELECT * FROM text_work ORDER BY key").to_arrow_reader(tables.GROUP)
        tables.write(files["text_work"], tables.distinct(ordered), tables.TEXT_WORK, _limit(captions, 0, encode))
        [there] = sql.execute(_THERE).fetchall()[0]
    return {"arrays": arrays, "captions": captions, "there": there, "files": files}


def _limit(count: int, row_bytes: int, encode: EncodeConfig) -> int:
    """Return the rows of one job, which fill one shard: of a sane size, and enough jobs to keep all workers busy."""
    whole = max(1, min(encode.shard_rows, encode.shard_mb * 2**20 // max(1, row_bytes)))
    workers = max(encode.workers, encode.max_workers or 0)
    if workers == 1:
        return whole
    share = math.ceil(count / (2 * workers) / encode.group_rows) * encode.group_rows
    return max(1, min(whole, share))


def _moments_bytes(bucket: str, recipe: Recipe) -> int:
    width, height = bucket_size(bucket)
    return 2 * recipe.stored_channels * (width // recipe.latent_factor) * (height // recipe.latent_factor)


def _keys(uri: str) -> pa.ChunkedArray | None:
    filesystem, path = storage.resolve(uri)
    try:
        return pq.read_table(path, columns=["key"], filesystem=filesystem, partitioning=None)["key"].cast(tables.KEY)
    except (pa.ArrowException, OSError, KeyError):
        return None


def _places(store: str, path: str, keys: pa.ChunkedArray) -> pa.Table:
    rows = len(keys)
    columns = [pa.repeat(store, rows), pa.repeat(path, rows), pa.array(np.arange(rows, dtype=np.int32)), keys]
    return pa.table(columns, schema=tables.STORED)
