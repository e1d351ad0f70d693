"""Read a prepared dataset: random rows by number, straight from the parquet shards' plain binary columns."""

from __future__ import annotations

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

_TWO_HEADERS = 42
"""Bytes of two page headers at least; one takes about 21."""


@dataclass(frozen=True)
class Index:
    """Where the live rows of one bucket's split are, ordered by id."""

    ids: np.ndarray
    """(n,) picture hashes."""
    shards: np.ndarray
    """(n,) numbers into the manifest's shards."""
    rows: np.ndarray
    """(n,) row numbers in the shard."""
    sizes: np.ndarray
    """(n, 6) int32, in the order of `schema.SIZE_COLUMNS`."""

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

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.manifest = open_manifest(uri)
        self._groups: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        self._maps: dict[int, np.ndarray] = {}
        self._files: dict[int, pq.ParquetFile] = {}
        self._bounds: dict[int, np.ndarray] = {}
        self._indices = self._read_indices()

    def index(self, bucket: str, split: str = "train") -> Index:
        """Return where a bucket's rows are; empty when it has none in that split."""
        none = np.empty(0, np.int64)
        empty = Index(np.empty(0, dtype=str), none, none, np.empty((0, 6), np.int32))
        return self._indices.get((bucket, split), empty)

    def counts(self, split: str = "train") -> dict[str, int]:
        """Return the rows of every bucket in a split."""
        return {bucket: len(index) for (bucket, part), index in sorted(self._indices.items()) if part == split}

    def rows(self, bucket: str, numbers: np.ndarray, split: str = "train") -> Rows:
        """Return rows by their numbers in the bucket's order of ids."""
        index, shape = self.index(bucket, split), self.manifest.moments_shape(bucket)
        arrays: dict[str, np.ndarray] = {}
        for slot, number in enumerate(numbers):
            columns, row = self._group(int(index.shards[number]), int(index.rows[number]))
            for name, values in columns.items():
                if name not in arrays:
                    arrays[name] = _uninitialised((len(numbers), values.shape[1]))
                arrays[name][slot] = values[row]
        moments = arrays.pop(schema.MOMENTS).reshape(-1, *shape)
        text = {name: values.reshape(-1, *self.manifest.text_shapes[name]) for name, values in arrays.items()}
        return Rows([str(i) for i in index.ids[numbers]], moments, text, index.sizes[numbers])

    def empty_text(self) -> dict[str, np.ndarray]:
        """Return the text columns of the empty caption, each without a row axis."""
        table = pq.read_table(storage.fetch(storage.join(self.uri, schema.EMPTY)))
        return {
            name: np.frombuffer(table.column(name)[0].as_py(), np.float16).reshape(shape)
            for name, shape in self.manifest.text_shapes.items()
        }

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
        parts: dict[tuple[str, str], list[Index]] = {}
        for number, shard in enumerate(self.manifest.shards):
            table = self._open(number).read(columns=["id", "split", *schema.SIZE_COLUMNS])
            live = np.ones(len(table), dtype=bool)
            live[list(shard.dropped)] = False
            ids, splits = (table.column(name).to_numpy() for name in ("id", "split"))
            sizes = np.stack([table.column(name).to_numpy() for name in schema.SIZE_COLUMNS], axis=1)
            for split in ("train", "held_out"):
                rows = np.flatnonzero(live & (splits == split))
                if len(rows):
                    part = Index(ids[rows], np.full(len(rows), number), rows, sizes[rows])
                    parts.setdefault((shard.bucket, split), []).append(part)
        return {key: _by_id(found) for key, found in parts.items()}

    def _open(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            path = storage.fetch(storage.join(self.uri, self.manifest.shards[shard].path))
            self._files[shard] = pq.ParquetFile(path)
            self._maps[shard] = np.memmap(path, np.uint8, "r")
            metadata = self._files[shard].metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            self._bounds[shard] = np.cumsum([0, *sizes])
        return self._files[shard]

    def _group(self, shard: int, row: int) -> tuple[dict[str, np.ndarray], int]:
        """Return the array columns of the row group that holds a shard's row, and the row's place in it."""
        group = int(np.searchsorted(self._bounds[shard], row, side="right")) - 1
        key = (shard, group)
        if key not in self._groups:
            metadata = self._files[shard].metadata.row_group(group)
            layout = self._files[shard].metadata.schema
            wanted = {schema.MOMENTS, *self.manifest.text_shapes}
            self._groups[key] = {
                layout.column(i).name: _values(
                    self._maps[shard], metadata.column(i), layout.column(i).length, metadata.num_rows
                )
                for i in range(metadata.num_columns)
                if layout.column(i).name in wanted
            }
        return self._groups[key], row - int(self._bounds[shard][group])


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


def _by_id(parts: list[Index]) -> Index:
    """Join shards' parts of one bucket's split, ordered by id: an order that does not depend on how rows were stored."""
    order = np.argsort(np.concatenate([part.ids for part in parts]))
    fields = ([getattr(part, name) for part in parts] for name in ("ids", "shards", "rows", "sizes"))
    return Index(*(np.concatenate(values)[order] for values in fields))


def _values(file: np.ndarray, chunk: Any, width: int, rows: int) -> np.ndarray:
    """View a column chunk of equally long binary values as float16 (rows, length), without reading or copying it.

    The writer stores required, plain, uncompressed, fixed-size values in one page, so a chunk is a page header of a few
    bytes and then the values to its end. Mapping them is as fast as memory; decoding through Arrow is one more copy.
    """
    start = chunk.data_page_offset + chunk.total_compressed_size - rows * width
    header = start - chunk.data_page_offset
    if not width or chunk.compression != "UNCOMPRESSED" or not 0 < header < _TWO_HEADERS:
        raise UserError(
            f"The dataset's column {chunk.path_in_schema!r} is not stored as this program writes it (plain, uncompressed, one "
            "page a row group); it cannot be read safely. Prepare the dataset again."
        )
    return file[start : start + rows * width].view(np.float16).reshape(rows, -1)


def _uninitialised(shape: tuple[int, ...]) -> np.ndarray:
    """Return a float16 array in Arrow's memory pool: it reuses pages, where a fresh large array costs a fault for each."""
    return np.frombuffer(pa.allocate_buffer(2 * int(np.prod(shape))), np.float16).reshape(shape)
