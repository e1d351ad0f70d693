"""Read a prepared dataset: random rows by number, straight from the parquet shards' plain binary
columns."""

from __future__ import annotations

import functools
import resource
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from raytrain import storage
from raytrain.config import Config
from raytrain.config.data import GROWING, LATEST
from raytrain.data.columns import uncached
from raytrain.data.loading.shard_reader import ShardReader
from raytrain.data.store import schema, snapshot
from raytrain.data.store.schema import HELD_OUT, TRAIN, Column, Manifest
from raytrain.errors import UserError

if TYPE_CHECKING:
    from raytrain.data.loading.online import Online

Pick = Callable[[str, list[str], np.ndarray], np.ndarray]
"""("image" or "caption", image hashes, number of versions of each)
-> which version of each row is read."""


@dataclass(frozen=True)
class Places:
    """Where the versions of one column's arrays are, for n rows:
    those of row i are offsets[i] to offsets[i + 1]."""

    offsets: np.ndarray
    """(n + 1,) int64."""
    columns: np.ndarray
    """(m, 4) int32: shard, row in the shard, crop top, crop left."""

    def select(self, rows: np.ndarray) -> Places:
        """Return the places of some rows."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        own = np.repeat(self.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Places(offsets, self.columns[own])


@dataclass(frozen=True)
class Index:
    """The rows of one bucket's split, ordered by id, and the entries an epoch is made of:
    each row as often as it repeats."""

    ids: np.ndarray
    """(n, 32) uint8, image hashes."""
    sizes: np.ndarray
    """(n, 2) int32: original height and width."""
    weights: np.ndarray
    """(n,) float32: factor on the loss."""
    repeats: np.ndarray
    """(n,) int32."""
    places: dict[str, Places]
    entries: np.ndarray
    """(e,) row of each entry."""
    ordinals: np.ndarray
    """(e,) how many entries of the same row come before."""
    locations: Any = None
    """(n,) where each row's image is, as Arrow text; None where none is read again."""

    def __len__(self) -> int:
        return len(self.entries)


@dataclass(frozen=True)
class Rows:
    """n entries of one bucket."""

    ids: list[str]
    weights: np.ndarray
    """(n,) float32: factor on the loss."""
    columns: dict[str, np.ndarray]
    """As in `raytrain.batch.Batch`."""


class Dataset:
    """One snapshot of a prepared dataset, opened for reading. Thread-safe.

    Raises UserError when the folder holds no such snapshot, or one that was published before
    preparation had ended and `partial` does not allow it.
    """

    def __init__(
        self,
        uri: str,
        number: str = "latest",
        partial: bool = False,
        online: Callable[[Manifest], Online] | None = None,
    ) -> None:
        self.uri = uri
        self.manifest = open_manifest(uri, number, partial)
        self.online = online and online(self.manifest)
        self._shards: dict[tuple[str, int], ShardReader] = {}
        self._indices = {
            key: index for name in self.manifest.buckets for key, index in self._read_indices(name)
        }
        _allow_many_files()

    @classmethod
    def of(cls, config: Config, device: Any = "cpu") -> Dataset:
        """Open the snapshot that a config names; what is not cached is encoded on the device."""
        online = None
        if not config.data.cache:
            from raytrain.data.loading.online import Online

            online = functools.partial(Online, config, device=device)
        return cls(config.dataset, config.data.snapshot, config.data.partial, online)

    def index(self, bucket: str, split: str = TRAIN) -> Index:
        """Return where a bucket's rows are; empty when it has none in that split."""
        if (bucket, split) in self._indices:
            return self._indices[bucket, split]
        none = np.empty(0, np.int64)
        places = {
            name: Places(np.zeros(1, np.int64), np.empty((0, 4), np.int32))
            for name in self.manifest.columns
        }
        return Index(
            np.empty((0, 32), np.uint8), np.empty((0, 2), np.int32), none, none, places, none, none
        )

    def counts(self, split: str = TRAIN) -> dict[str, int]:
        """Return the entries of every bucket in a split: rows, in training as often as they
        repeat."""
        return {
            bucket: len(index)
            for (bucket, part), index in sorted(self._indices.items())
            if part == split
        }

    def occurrences(self, bucket: str, numbers: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
        """Return how often each entry's row was used before, from how often the entry itself
        was."""
        index = self.index(bucket)
        again: np.ndarray = (
            occurrences * index.repeats[index.entries[numbers]] + index.ordinals[numbers]
        )
        return again

    def rows(
        self,
        bucket: str,
        numbers: np.ndarray,
        split: str = TRAIN,
        pick: Pick | None = None,
        columns: Collection[str] | None = None,
    ) -> Rows:
        """Return entries by their numbers, with these columns (default: all that are stored)
        and no other.

        `pick` chooses among a row's versions, without it the first is read: one for all columns
        made of the image, which show the same cut, and one for all made of the caption.
        """
        index = self.index(bucket, split)
        rows = index.entries[numbers]
        digits = index.ids[rows].tobytes().hex()
        ids = [digits[start : start + 64] for start in range(0, len(digits), 64)]
        arrays: dict[str, np.ndarray] = {}
        crops = np.zeros((len(rows), 2), np.int32)
        versions: dict[str, np.ndarray] = {}
        wanted = tuple(self.manifest.columns if columns is None else columns)
        for name in uncached(wanted) if self.online else wanted:
            column, places = self.column(name), index.places[name]
            first = places.offsets[rows]
            if column.of not in versions:
                counts = places.offsets[rows + 1] - first
                versions[column.of] = (
                    pick(column.of, ids, counts) if pick else np.zeros(len(rows), np.int64)
                )
            where = places.columns[first + versions[column.of]]
            for array, content in self._arrays(name, where).items():
                stored = column.arrays[array]
                arrays[array] = content.view(stored.dtype).reshape(-1, *stored.shape_in(bucket))
            if column.of == "image":
                crops = where[:, 2:]
        if self.online:
            places = index.locations.take(pa.array(rows)).to_pylist()
            arrays = self.online.made(wanted, arrays, bucket, ids, places)
        width, height = schema.bucket_size(bucket)
        sizes = arrays["sizes"] = np.empty((len(rows), 6), np.float32)
        sizes[:, :2], sizes[:, 2:4], sizes[:, 4:] = index.sizes[rows], crops, (height, width)
        return Rows(ids, index.weights[rows], arrays)

    def column(self, name: str) -> Column:
        """Return what is stored of a column; UserError where the dataset has none of that name."""
        return stored_column(self.uri, self.manifest, name)

    def empties(self, columns: Collection[str]) -> dict[str, np.ndarray]:
        """Return the arrays of the empty caption in those of the columns that are made of
        captions, without a row axis."""
        found: dict[str, np.ndarray] = {}
        for column in map(self.column, uncached(columns) if self.online else columns):
            if column.of == "caption":
                table = pq.read_table(storage.fetch(storage.join(self.uri, column.empty)))
                for name, array in column.arrays.items():
                    found[name] = np.frombuffer(
                        table.column(name)[0].as_py(), array.dtype
                    ).reshape(array.shape)
        if self.online:
            made = self.online.made(columns, {name: each[None] for name, each in found.items()})
            found = {name: array[0] for name, array in made.items()}
        return found

    def details(
        self, split: str, columns: tuple[str, ...] = ("path", "captions")
    ) -> Iterator[dict[str, Any]]:
        """Yield columns of a split's rows and the bucket of each,
        in the order of buckets and ids."""
        for part in self.manifest.parts:
            filesystem, path = storage.resolve(storage.join(self.uri, part.path))
            with pq.ParquetFile(path, filesystem=filesystem) as file:
                for batch in file.iter_batches(columns=[*{*columns, "split"}]):
                    for row in batch.to_pylist():
                        if row.pop("split") == split:
                            yield row | {"bucket": part.bucket}

    def _read_indices(self, bucket: str) -> Iterator[tuple[tuple[str, str], Index]]:
        names = list(self.manifest.columns)
        columns = ["id", "split", "original_height", "original_width", "repeats", "weight", *names]
        columns += ["location"] if self.online else []
        uris = [
            storage.join(self.uri, part.path)
            for part in self.manifest.parts
            if part.bucket == bucket
        ]
        tables = []
        for filesystem, path in map(storage.resolve, uris):
            tables.append(
                pq.read_table(path, columns=columns, filesystem=filesystem, partitioning=None)
            )
        table = pa.concat_tables(tables).combine_chunks()
        ids = np.frombuffer(table["id"].combine_chunks().buffers()[1], np.uint8).reshape(-1, 32)
        sizes = np.stack(
            [table[name].to_numpy() for name in ("original_height", "original_width")], axis=1
        )
        weights, repeats = table["weight"].to_numpy(), table["repeats"].to_numpy()
        places = {name: _places(table[name].combine_chunks()) for name in names}
        splits = np.asarray(table["split"].to_numpy(zero_copy_only=False))
        for split in (TRAIN, HELD_OUT):
            rows = np.flatnonzero(splits == split)
            if len(rows):
                shown = repeats[rows] if split == TRAIN else np.ones(len(rows), np.int32)
                starts = np.concatenate([[0], np.cumsum(shown)])
                yield (
                    (bucket, split),
                    Index(
                        ids=ids[rows],
                        sizes=sizes[rows],
                        weights=weights[rows],
                        repeats=shown,
                        places={store: found.select(rows) for store, found in places.items()},
                        entries=np.repeat(np.arange(len(rows)), shown),
                        ordinals=np.arange(starts[-1]) - np.repeat(starts[:-1], shown),
                        locations=table["location"].take(rows) if self.online else None,
                    ),
                )

    def _arrays(self, store: str, where: np.ndarray) -> dict[str, np.ndarray]:
        """Return a column's arrays at places (n, 4), each (n, bytes) uint8."""
        shards = [self._shard(store, number) for number in where[:, 0].tolist()]
        rows = where[:, 1].tolist()
        arrays: dict[str, np.ndarray] = {}
        for name, first in shards[0].columns.items():
            array = arrays[name] = _uninitialized((len(rows), first.width))
            into, end = array.reshape(-1).data, 0
            for shard, row in zip(shards, rows, strict=True):
                start, end = end, end + first.width
                shard.columns[name].read(row, into[start:end])
        return arrays

    def _shard(self, store: str, number: int) -> ShardReader:
        if (store, number) not in self._shards:
            self._shards[store, number] = ShardReader(
                storage.join(self.uri, self.manifest.shards[store][number])
            )
        return self._shards[store, number]


def open_manifest(uri: str, number: str = "latest", partial: bool = True) -> Manifest:
    """Return the manifest of a dataset's snapshot; UserError when there is none,
    or it is of another version."""
    path = storage.join(uri, schema.MANIFEST)
    if not storage.exists(path):
        raise UserError(
            f"{uri!r} holds no finished dataset (no {schema.MANIFEST}); there is nothing to train "
            "on. Run `raytrain prepare` with the same config first."
        )
    tree = storage.read_json(path)
    if number not in (LATEST, GROWING, str(tree.get("number"))):
        known = snapshot.snapshot_numbers(uri)
        if not number.isdigit() or int(number) not in known:
            raise UserError(
                f"data.snapshot must be {LATEST}, {GROWING} or a snapshot of {uri!r} "
                f"({', '.join(map(str, known))}), got {number!r}; it may have been deleted by "
                "`raytrain data gc`. Name another, or leave it out."
            )
        path = snapshot.snapshot_path(uri, int(number))
        tree = storage.read_json(path)
    if tree.get("version") != schema.VERSION:
        raise UserError(
            f"{path!r} has dataset version {tree.get('version')}, this program reads "
            f"{schema.VERSION}. Prepare again."
        )
    try:
        manifest = Manifest.model_validate(tree)
    except ValidationError as error:
        raise UserError(
            f"{path!r} is no manifest this version reads: {error.errors()[0]['msg']}. Prepare "
            "again."
        ) from error
    if not manifest.complete and not partial and number != GROWING:
        raise UserError(
            f"Snapshot {manifest.number} of {uri!r} was published while preparation was still "
            "running; a run trained on it would not see the rest. Wait for `raytrain prepare` to "
            f'end, or set data.snapshot = "{GROWING}" to go on with newer ones, or data.partial = '
            "true to train on this one."
        )
    return manifest


def check_dataset(config: Config) -> Manifest:
    """Return the manifest of the config's dataset; UserError when it was made for another model or
    lacks what is read."""
    from raytrain import families
    from raytrain.data import columns

    manifest = open_manifest(config.dataset, config.data.snapshot, config.data.partial)
    _check_versions(config, manifest)
    facts = {"family": (manifest.family, config.model.family)}
    for name in columns.read(config):
        kind = columns.load(name)
        own = kind.version(config, families.load(config.model.family))
        version = stored_column(config.dataset, manifest, name).version
        if kind.MAKER:
            facts[kind.MAKER] = version.get(kind.MAKER, ""), own[kind.MAKER]
    for what, (made_with, wanted) in facts.items():
        if made_with != wanted:
            raise UserError(
                f"The dataset {config.dataset!r} was made by another {what} ({made_with[:12]}) "
                f"than the model's ({wanted[:12]}); training on it would learn from foreign "
                "arrays. Run `raytrain prepare` with this config, or set model.path, model.vae or "
                "model.max_tokens to what it was made with."
            )
    return manifest


def _check_versions(config: Config, manifest: Manifest) -> None:
    """Raise UserError where a run would read versions of captions that are not stored."""
    wanted, stored = config.data.captions, manifest.settings.get("captions", {})
    for key, none in (("warmup_stages", 0), ("dropped", "empty")):
        have, want = stored.get(key, none), getattr(wanted, key)
        if want not in (none, have):
            raise UserError(
                f"The dataset {config.dataset!r} was prepared with data.captions.{key} = "
                f"{have!r}, not {want!r}; the captions that training would read are not in it. "
                "Run `raytrain prepare` with this config."
            )


def stored_column(uri: str, manifest: Manifest, name: str) -> Column:
    """Return what a snapshot stores of a column; UserError where it has none of that name."""
    if name not in manifest.columns:
        raise UserError(
            f"Training reads column {name!r}, but snapshot {manifest.number} of {uri!r} has only "
            f"{', '.join(manifest.columns)}; there would be nothing to learn from. Run `raytrain "
            "prepare` again with this config: only what is missing is made."
        )
    return manifest.columns[name]


def _places(column: Any) -> Places:
    values = column.flatten()
    fields = [values.field(name).to_numpy() for name in ("shard", "row", "crop_top", "crop_left")]
    offsets = column.offsets.to_numpy().astype(np.int64)
    return Places(offsets - offsets[0], np.stack(fields, axis=1))


def _allow_many_files() -> None:
    """Raise this process's limit of open files as far as it may: every open shard is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _uninitialized(shape: tuple[int, ...]) -> np.ndarray:
    """Return a uint8 array in Arrow's memory pool: it reuses pages,
    where a fresh large array costs a fault for each."""
    return np.frombuffer(pa.allocate_buffer(int(np.prod(shape))), np.uint8).reshape(shape)
