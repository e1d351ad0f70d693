"""Read a prepared dataset: random rows by number, straight from the parquet shards' plain binary columns."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from raytrain import storage
from raytrain.config import Config
from raytrain.data import schema
from raytrain.data.schema import Manifest
from raytrain.errors import UserError


@dataclass(frozen=True)
class Index:
    """Where the live rows of one bucket's split are, ordered by id."""

    ids: np.ndarray
    """(n,) picture hashes."""
    shards: np.ndarray
    """(n,) numbers into the manifest's shards."""
    rows: np.ndarray
    """(n,) row numbers in the shard."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Rows:
    """Arrays of n rows of one bucket."""

    ids: list[str]
    moments: np.ndarray
    """(n, 2C, h, w) float16."""
    text: dict[str, np.ndarray]
    """Column -> (n, ...) float16."""
    sizes: np.ndarray
    """(n, 6) int32: original height, width, crop top, left, bucket height, width."""


class Dataset:
    """A prepared dataset, opened for reading. Thread-safe.

    Raises UserError when the folder holds no finished dataset.
    """

    def __init__(self, uri: str, cache_bytes: int = 2 << 30) -> None:
        self.uri = uri
        self.manifest = open_manifest(uri)
        self._cache_bytes = cache_bytes
        self._groups: OrderedDict[tuple[int, int], dict[str, np.ndarray]] = OrderedDict()
        self._held = 0
        self._files: dict[int, pq.ParquetFile] = {}
        self._bounds: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()
        self._indices = self._read_indices()

    def index(self, bucket: str, split: str = "train") -> Index:
        """Return where a bucket's rows are; empty when it has none in that split."""
        empty = Index(np.empty(0, dtype=str), np.empty(0, np.int64), np.empty(0, np.int64))
        return self._indices.get((bucket, split), empty)

    def counts(self, split: str = "train") -> dict[str, int]:
        """Return the rows of every bucket in a split."""
        return {bucket: len(index) for (bucket, part), index in sorted(self._indices.items()) if part == split}

    def rows(self, bucket: str, numbers: np.ndarray, split: str = "train") -> Rows:
        """Return rows by their numbers in the bucket's order of ids."""
        index, shape = self.index(bucket, split), self.manifest.moments_shape(bucket)
        columns: dict[str, np.ndarray] = {}
        for slot, number in enumerate(numbers):
            group, offset = self._locate(int(index.shards[number]), int(index.rows[number]))
            for name, values in group.items():
                if name not in columns:
                    columns[name] = np.empty((len(numbers), *values.shape[1:]), values.dtype)
                columns[name][slot] = values[offset]
        moments = columns.pop(schema.MOMENTS).reshape(-1, *shape)
        sizes = np.stack([columns.pop(name) for name in schema.SIZE_COLUMNS], axis=1)
        text = {name: columns[name].reshape(-1, *self.manifest.text_shapes[name]) for name in self.manifest.text_shapes}
        return Rows([str(i) for i in index.ids[numbers]], moments, text, sizes)

    def empty_text(self) -> dict[str, np.ndarray]:
        """Return the text columns of the empty caption, each without a row axis."""
        table = pq.read_table(storage.fetch(storage.join(self.uri, schema.EMPTY)))
        return {name: _binary(table.column(name)).reshape(shape) for name, shape in self.manifest.text_shapes.items()}

    def details(self, split: str, columns: tuple[str, ...] = schema.INDEX_COLUMNS) -> list[dict[str, Any]]:
        """Return the index columns of a split's live rows, ordered by id, each with its bucket."""
        found = []
        for shard in self.manifest.shards:
            table = self._open(self.manifest.shards.index(shard)).read(columns=[*{*columns, "id", "split"}])
            dropped = set(shard.dropped)
            rows = table.to_pylist()
            found += [
                {**row, "bucket": shard.bucket}
                for number, row in enumerate(rows)
                if number not in dropped and row["split"] == split
            ]
        return sorted(found, key=lambda row: str(row["id"]))

    def _read_indices(self) -> dict[tuple[str, str], Index]:
        parts: dict[tuple[str, str], list[tuple[str, int, int]]] = {}
        for number, shard in enumerate(self.manifest.shards):
            table = self._open(number).read(columns=["id", "split"])
            dropped = set(shard.dropped)
            pairs = zip(table.column("id").to_pylist(), table.column("split").to_pylist(), strict=True)
            for row, (id_, split) in enumerate(pairs):
                if row not in dropped:
                    parts.setdefault((shard.bucket, split), []).append((id_, number, row))
        indices = {}
        for key, entries in parts.items():
            ids, shards, rows = zip(*sorted(entries), strict=True)
            indices[key] = Index(np.array(ids), np.array(shards), np.array(rows))
        return indices

    def _open(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            path = storage.fetch(storage.join(self.uri, self.manifest.shards[shard].path))
            file = pq.ParquetFile(path, memory_map=True)
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            self._bounds[shard] = np.cumsum([0, *sizes])
            self._files[shard] = file
        return self._files[shard]

    def _locate(self, shard: int, row: int) -> tuple[dict[str, np.ndarray], int]:
        with self._lock:
            file = self._open(shard)
            group = int(np.searchsorted(self._bounds[shard], row, side="right")) - 1
            key = (shard, group)
            if key in self._groups:
                self._groups.move_to_end(key)
            else:
                self._groups[key] = self._read_group(file, group)
                self._held += _size(self._groups[key])
                while self._held > self._cache_bytes and len(self._groups) > 1:
                    self._held -= _size(self._groups.popitem(last=False)[1])
            return self._groups[key], row - int(self._bounds[shard][group])

    def _read_group(self, file: pq.ParquetFile, group: int) -> dict[str, np.ndarray]:
        arrays = [schema.MOMENTS, *self.manifest.text_shapes]
        table = file.read_row_group(group, columns=[*arrays, *schema.SIZE_COLUMNS], use_threads=False)
        columns = {name: _binary(table.column(name)) for name in arrays}
        return columns | {name: table.column(name).to_numpy() for name in schema.SIZE_COLUMNS}


def open_manifest(uri: str) -> Manifest:
    """Return a dataset's manifest; UserError when there is none or it is of another version."""
    path = storage.join(uri, schema.MANIFEST)
    if not storage.exists(path):
        raise UserError(
            f"{uri!r} holds no finished dataset (no {schema.MANIFEST}); there is nothing to train on. "
            "Run `raytrain prepare` with the same config first."
        )
    try:
        manifest = Manifest.model_validate(storage.read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path!r} is no manifest this version reads: {error.errors()[0]['msg']}. Prepare again."
        ) from error
    if manifest.version != schema.VERSION:
        raise UserError(
            f"{path!r} has dataset version {manifest.version}, this program reads {schema.VERSION}. Prepare again."
        )
    return manifest


def check_dataset(config: Config) -> Manifest:
    """Return the manifest of the config's dataset, or UserError when it was made for another model."""
    from raytrain import families
    from raytrain.families import _weights

    manifest = open_manifest(config.dataset)
    family = families.load(config.model.family)
    hashes = {
        "family": (manifest.family, config.model.family),
        "VAE": (manifest.vae_hash, _weights.vae_hash(config.model)),
        "text encoder": (manifest.text_hash, _weights.text_hash(config.model, family.TEXT_COMPONENTS)),
    }
    for what, (made_with, wanted) in hashes.items():
        if made_with != wanted:
            raise UserError(
                f"The dataset {config.dataset!r} was made by another {what} ({made_with[:12]}) than the model's "
                f"({wanted[:12]}); training on it would learn from foreign latents. Run `raytrain prepare` with this "
                "config, or set model.path or model.vae to the ones it was made with."
            )
    return manifest


def _binary(column: pa.ChunkedArray) -> np.ndarray:
    """View a column of equally long binary values as float16 (n, length), without a copy where it is one chunk."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if pa.types.is_fixed_size_binary(array.type):
        length, data, start = array.type.byte_width, array.buffers()[1], array.offset * array.type.byte_width
    else:
        wide = pa.types.is_large_binary(array.type)
        offsets = np.frombuffer(array.buffers()[1], np.int64 if wide else np.int32)[array.offset :]
        length, data, start = int(offsets[1] - offsets[0]), array.buffers()[2], int(offsets[0])
    raw = np.frombuffer(data, np.uint8, count=length * len(array), offset=start)
    return raw.reshape(len(array), length).view(np.float16)


def _size(group: dict[str, np.ndarray]) -> int:
    return sum(values.nbytes for values in group.values())
