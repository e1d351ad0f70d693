"""Encode images and captions into shards: a pool of Ray Data actors,
one shard of each column a job.

While the encoders work on one batch, threads read, decode and resize the next ones (Pillow
releases the interpreter), so a shard costs what its VAE costs. Pixels and arrays never leave the
actor: it writes its shard itself.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from raytrain import storage
from raytrain.config import Config
from raytrain.data import columns
from raytrain.data.columns import ImageEncoder
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import Opened, Passing, ahead, opened
from raytrain.data.image.ready import is_ready
from raytrain.data.image.transform import Transform
from raytrain.data.pipeline import ready_latents
from raytrain.data.store import shard, tables
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.data.store.partial_shards import PartialShardWriter
from raytrain.data.store.schema import Array, bucket_size, content_key
from raytrain.errors import UserError
from raytrain.startup import quiet

NOT_FINITE = "gave NaN or values beyond half precision"
LAYERS = ("alpha", "mask", "control")
"""What can be opened together with an image."""

Row = dict[str, bytes]
"""The raw arrays of one row of a column."""


class _Value(NamedTuple):
    """One version of an image for a column: its pixels, or what is wrong."""

    line: dict[str, Any]
    cut: np.ndarray | BadImage


class ShardEncoder:
    """One worker: the encoders of the columns that its jobs ask for, on one device,
    and decoding threads."""

    def __init__(
        self, config: Config, fingerprint: Fingerprint, faults: str, partial_shards: str, done: str
    ) -> None:
        import torch  # here: the command that only names this class starts a second earlier

        encode = config.data.encode
        if encode.gpus_per_worker and not torch.cuda.is_available():
            raise UserError(
                f"data.encode.gpus_per_worker = {encode.gpus_per_worker:g}, but PyTorch finds no "
                "GPU on this machine; nothing was encoded. Set it to 0, or run where there is one."
            )
        quiet()
        torch.set_num_threads(max(1, int(encode.cpus_per_worker)))
        self.config, self.data, self.fingerprint, self.faults = (
            config,
            config.data,
            fingerprint,
            faults,
        )
        self.partial_shards, self.done = partial_shards, done
        self.device = torch.device("cuda" if encode.gpus_per_worker > 0 else "cpu")
        self.dtype = torch.bfloat16 if encode.precision == "bf16" else torch.float32
        self.pool = ThreadPoolExecutor(max(2, int(encode.cpus_per_worker)))
        self._encoders: dict[str, Any] = {}

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job: an "empty" caption, or a row group of missing "arrays" or "texts".

        Return what was made, by column.
        """
        if job["kind"] == "empty":
            return self._empty(job["store"])
        done = storage.join(self.done, f"{content_key(job['uri'], job['group'])}.json")
        if storage.exists(done):  # Ray lost the report with the node that held it, and asks again
            report: dict[str, Any] = storage.read_json(done)
            return report
        lines = tables.read_group(job["uri"], job["group"]).to_pylist()
        partial = storage.join(
            self.partial_shards, content_key([line["key"].hex() for line in lines])
        )
        report = (
            self._arrays(lines, partial)
            if job["kind"] == "arrays"
            else self._texts(lines, partial)
        )
        storage.write_json(done, report)
        return report

    def _encoder(self, name: str) -> Any:
        """Return a column's encoder, loaded when first asked for."""
        if name not in self._encoders:
            from raytrain import families

            family = families.load(self.config.model.family)
            self._encoders[name] = columns.load(name).load(
                self.config, family, self.device, self.dtype
            )
        return self._encoders[name]

    def _arrays(self, lines: list[dict[str, Any]], partial: str) -> dict[str, Any]:
        bucket, names = lines[0]["bucket"], sorted({line["store"] for line in lines})
        writers = {
            name: self._writer(f"{name}/bucket={bucket}", storage.join(partial, name), len(lines))
            for name in names
        }
        faults: list[dict[str, Any]] = []
        waiting: dict[str, list[_Value]] = {name: [] for name in names}

        def encode(name: str) -> None:
            for value, row in zip(waiting[name], self._encode(name, waiting[name]), strict=True):
                if row is None:
                    faults.append(
                        _fault(
                            value.line["key"], BadImage(f"the {self._maker(name)} {NOT_FINITE}")
                        )
                    )
                else:
                    writers[name].add(value.line["key"], row)
            waiting[name].clear()

        for value in self._values(
            [line for line in lines if line["key"] not in writers[line["store"]].made]
        ):
            if isinstance(value.cut, BadImage):
                faults.append(_fault(value.line["key"], value.cut))
                continue
            waiting[value.line["store"]].append(value)
            if len(waiting[value.line["store"]]) == self.data.encode.batch:
                encode(value.line["store"])
        for name in names:
            encode(name)
        self._write_faults(faults)
        return {
            "rows": len(lines),
            "made": {name: rows for name in names if (rows := writers[name].close())},
        }

    def _writer(self, folder: str, partial: str, job_rows: int) -> PartialShardWriter:
        encode = self.data.encode
        shards = shard.ShardWriter(
            self.config.dataset, folder, encode.group_rows, encode.shard_mb * 2**20
        )
        return PartialShardWriter(shards, partial, job_rows)

    def _values(self, lines: list[dict[str, Any]]) -> Iterator[_Value]:
        encoders = {name: self._encoder(name) for name in {line["store"] for line in lines}}
        images = [
            list(group) for _, group in itertools.groupby(lines, key=lambda line: line["id"])
        ]
        for values in ahead(
            self.pool, lambda own: self._cuts(own, encoders), images, 3 * self.data.encode.batch
        ):
            yield from values

    def _cuts(
        self, lines: list[dict[str, Any]], encoders: Mapping[str, ImageEncoder]
    ) -> list[_Value]:
        """Return what is to be encoded of one image, in the order of its lines; in a thread.

        It is decoded once.
        """
        if is_ready(lines[0]["location"]):
            found = ready_latents.values(lines, self.data, self.fingerprint)
            return [_Value(line, cut) for line, cut in zip(lines, found, strict=True)]
        wanted = {line["store"]: encoders[line["store"]] for line in lines}
        needs = frozenset[str]().union(*(encoder.needs for encoder in wanted.values()))
        image = opened(lines[0], self.data, **{layer: layer in needs for layer in LAYERS})
        if isinstance(image, BadImage):
            return [_Value(line, image) for line in lines]
        layers = {name: _layer(encoder, image) for name, encoder in wanted.items()}
        return [
            _Value(line, _cut(line, wanted[line["store"]], layers[line["store"]]))
            for line in lines
        ]

    def _encode(self, name: str, values: Sequence[_Value]) -> list[Row | None]:
        """Encode versions of one bucket for a column; None where an array is not finite."""
        if not values:
            return []
        bucket, column = values[0].line["bucket"], self.fingerprint.columns[name]
        found = self._encoder(name).encode(
            columns.filled([value.cut for value in values], self.data.encode.batch)
        )
        for array, content in found.items():
            expected = column.arrays[array]
            if (content.shape[1:], content.dtype) != (
                expected.shape_in(bucket),
                np.dtype(expected.dtype),
            ):
                raise UserError(
                    f"Column {name!r} must store {array!r} of a {bucket} bucket as "
                    f"{expected.dtype} {expected.shape_in(bucket)}, but its encoder gave "
                    f"{content.dtype} {content.shape[1:]}. Choose bucket sizes that the "
                    f"{self._maker(name)} can encode (data.buckets.step)."
                )
        return _rows(found)[: len(values)]

    def _texts(self, lines: list[dict[str, Any]], partial: str) -> dict[str, Any]:
        name = lines[0]["store"]
        writer, faults, cut = self._writer(name, storage.join(partial, name), len(lines)), [], 0
        for batch in tables.batched(
            (line for line in lines if line["key"] not in writer.made), self.data.encode.batch
        ):
            captions = [line["input"] for line in batch]
            cut += sum(self._encoder(name).too_long(captions))
            for line, row in zip(batch, self._encode_captions(name, captions), strict=True):
                if row is None:
                    reason = f"the {self._maker(name)} {NOT_FINITE} for its caption"
                    faults.append(_fault(line["key"], BadImage(reason)))
                else:
                    writer.add(line["key"], row)
        self._write_faults(faults)
        return {"rows": len(lines), "made": {name: writer.close()}, "cut": {name: cut}}

    def _encode_captions(self, name: str, captions: Sequence[str]) -> list[Row | None]:
        full = columns.filled(captions, self.data.encode.batch)
        return _rows(self._encoder(name).encode(full))[: len(captions)]

    def _empty(self, name: str) -> dict[str, Any]:
        found = self._encoder(name).encode(columns.filled([""], self.data.encode.batch))
        row = _rows(found)[0]
        if row is None:
            raise UserError(
                f"The {self._maker(name)} must give finite half-precision numbers, but gives NaN "
                "or larger ones for the empty caption. Nothing can be trained on them; use "
                'data.encode.precision = "fp32" or another model.'
            )
        arrays = {
            array: Array.model_validate({"dtype": str(content.dtype), "shape": content.shape[1:]})
            for array, content in found.items()
        }
        shard.write_empty(self.config.dataset, name, self.fingerprint.empty_key(name), row, arrays)
        return {"rows": 0, "made": {}}

    def _maker(self, name: str) -> str:
        return columns.load(name).MAKER or f"maker of column {name!r}"

    def _write_faults(self, faults: list[dict[str, Any]]) -> None:
        if faults:
            name = hashlib.sha256(b"".join(fault["key"] for fault in faults)).hexdigest()
            tables.write_rows(storage.join(self.faults, f"{name}.parquet"), faults, tables.FAULTS)


def _layer(encoder: ImageEncoder, image: Opened) -> Image.Image | BadImage:
    try:
        return encoder.layer(image)
    except BadImage as error:
        return error


def _cut(
    line: dict[str, Any], encoder: ImageEncoder, layer: Image.Image | BadImage
) -> np.ndarray | BadImage:
    if isinstance(layer, BadImage):
        return layer
    try:
        return encoder.cut(layer, Transform.from_json(line["input"]), bucket_size(line["bucket"]))
    except BadImage as error:
        return error


def _rows(arrays: Mapping[str, np.ndarray]) -> list[Row | None]:
    """Return the rows of arrays (n, ...) as raw little-endian bytes;
    None where a value is not finite."""
    finite = np.all([_finite(array) for array in arrays.values()], axis=0)
    whole: Iterable[tuple[np.ndarray, ...]] = zip(*arrays.values(), strict=True)
    return [
        {name: array.tobytes() for name, array in zip(arrays, row, strict=True)} if good else None
        for row, good in zip(whole, finite, strict=True)
    ]


def _finite(array: np.ndarray) -> np.ndarray:
    """Tell for each row whether all its values are finite."""
    found: np.ndarray = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return found


def _fault(key: bytes, error: BadImage) -> dict[str, Any]:
    return {"key": key, "reason": str(error), "lasting": not isinstance(error, Passing)}
