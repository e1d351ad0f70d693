"""Encode pictures and captions into shards: a pool of Ray Data actors, one shard of each store a job.

While the encoders work on one batch, threads read, decode and resize the next ones (Pillow releases the
interpreter), so a shard costs what its VAE costs. Pixels and moments never leave the actor: it writes its shard itself.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raytrain import plugins, storage
from raytrain.config import Config
from raytrain.data import shard, tables
from raytrain.data.buckets import Size
from raytrain.data.opening import Opened, Passing, ahead, opened, sound
from raytrain.data.picture import BadPicture
from raytrain.data.pieces import PieceWriter
from raytrain.data.recipe import Recipe
from raytrain.data.schema import CONTROLS, MASKS, MOMENTS, TEXT, bucket_size, content_key
from raytrain.data.transform import Transform, grey, pixels
from raytrain.errors import UserError
from raytrain.startup import quiet

if TYPE_CHECKING:
    from torch import Tensor

NOT_FINITE = "gave NaN or values beyond half precision"


class _Value(NamedTuple):
    """One array of a picture: pixels (H, W, 3) for the VAE, a finished mask or control picture, or what is wrong."""

    line: dict[str, Any]
    array: Any


class ShardEncoder:
    """One worker: the family's encoders on one device, the models of masks and control pictures, and decoding threads."""

    def __init__(self, config: Config, recipe: Recipe, faults: str, pieces: str, done: str) -> None:
        import torch  # here and below: the command that only names this class starts a second earlier

        from raytrain.encoders import Encoders

        encode, data = config.data.encode, config.data
        if encode.gpus_per_worker and not torch.cuda.is_available():
            raise UserError(
                f"data.encode.gpus_per_worker = {encode.gpus_per_worker:g}, but PyTorch finds no GPU on this machine; nothing "
                "was encoded. Set it to 0, or run where there is one."
            )
        quiet()
        torch.set_num_threads(max(1, int(encode.cpus_per_worker)))
        self.config, self.data, self.recipe, self.faults = config, data, recipe, faults
        self.pieces, self.done = pieces, done
        self.device = torch.device("cuda" if encode.gpus_per_worker > 0 else "cpu")
        dtype = torch.bfloat16 if encode.precision == "bf16" else torch.float32
        self.encoders = Encoders(config.model, self.device, dtype)
        self.pool = ThreadPoolExecutor(max(2, int(encode.cpus_per_worker)))
        self.layers = _Layers(config, recipe)

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job: {"kind": "empty"}, or a row group of missing "arrays" or "texts". Return what was made, by store."""
        if job["kind"] == "empty":
            return self._empty()
        done = storage.join(self.done, f"{content_key(job['uri'], job['group'])}.json")
        if storage.exists(done):  # Ray lost the report with the node that held it, and asks again
            told: dict[str, Any] = storage.read_json(done)
            return told
        lines = tables.read_group(job["uri"], job["group"]).to_pylist()
        pieces = storage.join(self.pieces, content_key([line["key"].hex() for line in lines]))
        report = self._arrays(lines, pieces) if job["kind"] == "arrays" else self._texts(lines, pieces)
        storage.write_json(done, report)
        return report

    def _arrays(self, lines: list[dict[str, Any]], pieces: str) -> dict[str, Any]:
        bucket = lines[0]["bucket"]
        writers = {store: self._writer(f"{store}/bucket={bucket}", storage.join(pieces, store), len(lines))
                   for store in (MOMENTS, MASKS, CONTROLS)}  # fmt: skip
        faults: list[dict[str, Any]] = []
        waiting: list[_Value] = []

        def encode() -> None:
            for value, content in zip(waiting, self._encode(waiting), strict=True):
                if content is None:
                    faults.append(_fault(value.line["key"], BadPicture(f"the VAE {NOT_FINITE}")))
                else:
                    writers[MOMENTS].add(value.line["key"], {MOMENTS: content})
            waiting.clear()

        for value in self._values([line for line in lines if line["key"] not in writers[line["store"]].made]):
            store = value.line["store"]
            if isinstance(value.array, BadPicture):
                faults.append(_fault(value.line["key"], value.array))
            elif store == MOMENTS:
                waiting.append(value)
                if len(waiting) == self.data.encode.batch:
                    encode()
            else:
                writers[store].add(value.line["key"], {store: value.array.tobytes()})
        encode()
        self._write_faults(faults)
        return {"rows": len(lines), "made": {store: rows for store in writers if (rows := writers[store].close())}}

    def _writer(self, folder: str, pieces: str, job_rows: int) -> PieceWriter:
        encode = self.data.encode
        shards = shard.ShardWriter(self.config.dataset, folder, encode.group_rows, encode.shard_mb * 2**20)
        return PieceWriter(shards, pieces, job_rows)

    def _values(self, lines: list[dict[str, Any]]) -> Iterator[_Value]:
        pictures = [list(group) for _, group in itertools.groupby(lines, key=lambda line: line["id"])]
        for values in ahead(self.pool, self.layers.make, pictures, 3 * self.data.encode.batch):
            yield from values

    def _encode(self, values: Sequence[_Value]) -> list[bytes | None]:
        """Encode pixels into float16 bytes of moments (2C, h, w); None where not finite."""
        import torch

        if not values:
            return []
        stack = np.stack(_filled([value.array for value in values], self.data.encode.batch))
        scaled = torch.from_numpy(stack).to(self.device).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
        moments = self.encoders.encode_images(scaled)
        expected = tuple(side // self.recipe.latent_factor for side in stack.shape[1:3])
        if tuple(moments.shape[2:]) != expected:
            raise UserError(
                f"The VAE must divide every side of a bucket by {self.recipe.latent_factor}, but {stack.shape[1:3]} pixels "
                f"became {tuple(moments.shape[2:])} latents, not {expected}. "
                "Choose bucket sizes it can encode (data.buckets.step)."
            )
        return _half(moments)[: len(values)]

    def _texts(self, lines: list[dict[str, Any]], pieces: str) -> dict[str, Any]:
        writer, faults, cut = self._writer(TEXT, storage.join(pieces, TEXT), len(lines)), [], 0
        for batch in tables.batched((line for line in lines if line["key"] not in writer.made), self.data.encode.batch):
            captions = [line["caption"] for line in batch]
            cut += sum(self.encoders.too_long(captions))
            for line, row in zip(batch, self._encode_captions(captions), strict=True):
                if row is None:
                    faults.append(_fault(line["key"], BadPicture(f"the text encoder {NOT_FINITE} for its caption")))
                else:
                    writer.add(line["key"], row)
        self._write_faults(faults)
        return {"rows": len(lines), "made": {TEXT: writer.close()}, "cut": cut}

    def _encode_captions(self, captions: Sequence[str]) -> list[dict[str, bytes] | None]:
        full = _filled(captions, self.data.encode.batch)
        columns = {name: _half(values)[: len(captions)] for name, values in self.encoders.encode_captions(full).items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [None if None in row.values() else row for row in rows]

    def _empty(self) -> dict[str, Any]:
        shapes = {name: tuple(value.shape[1:]) for name, value in self.encoders.encode_captions([""]).items()}
        row = self._encode_captions([""])[0]
        if row is None:
            raise UserError(
                "The text encoder must give finite half-precision numbers, but gives NaN or larger ones for the empty "
                'caption. Nothing can be trained on them; use data.encode.precision = "fp32" or another model.'
            )
        shard.write_empty(self.config.dataset, self.recipe.empty_key, row, shapes)
        return {"rows": 0, "made": {}}

    def _write_faults(self, faults: list[dict[str, Any]]) -> None:
        if faults:
            name = hashlib.sha256(b"".join(fault["key"] for fault in faults)).hexdigest()
            tables.write_rows(storage.join(self.faults, f"{name}.parquet"), faults, tables.FAULTS)


class _Layers:
    """Makes the arrays of a picture, in a thread: decodes once, then resizes and cuts for each."""

    def __init__(self, config: Config, recipe: Recipe) -> None:
        self.data, self.factor = config.data, recipe.latent_factor
        self.lock = threading.Lock()  # models of masks and control pictures serve one thread at a time
        masks, controls = config.data.masks, config.data.controls
        self.masker = self.maker = None
        self.reads_mask = self.reads_control = False
        if recipe.mask_version:
            module = plugins.load("data.masks", masks.kind)
            self.masker, self.reads_mask = module.load(masks), module.READS_FILE
        if recipe.control_version:
            module = plugins.load("data.controls", controls.kind)
            self.maker, self.reads_control = module.load(controls), module.READS_FILE

    def make(self, lines: list[dict[str, Any]]) -> list[_Value]:
        """Return the arrays of one picture, in the order of its lines."""
        wanted = {line["store"] for line in lines}
        picture = opened(
            lines[0],
            self.data,
            alpha=MASKS in wanted,
            mask=MASKS in wanted and self.reads_mask,
            control=CONTROLS in wanted and self.reads_control,
        )
        if isinstance(picture, BadPicture):
            return [_Value(line, picture) for line in lines]
        source = {MOMENTS: picture.picture}
        for store, layer in ((MASKS, self._mask), (CONTROLS, self._control)):
            if store in wanted:
                source[store] = _or_fault(layer, picture)
        return [_Value(line, self._array(line, source[line["store"]])) for line in lines]

    def _array(self, line: dict[str, Any], layer: Any) -> Any:
        if isinstance(layer, BadPicture):
            return layer
        bucket, version = bucket_size(line["bucket"]), Transform.from_json(line["transform"])
        if line["store"] == MASKS:
            return grey(layer, version, bucket, self._latent_size(bucket))
        array = pixels(layer, version, bucket)
        return array if line["store"] == MOMENTS else np.ascontiguousarray(array.transpose(2, 0, 1))

    def _latent_size(self, bucket: Size) -> Size:
        return bucket[0] // self.factor, bucket[1] // self.factor

    def _mask(self, picture: Opened) -> Any:
        assert self.masker is not None
        with self.lock:
            return self.masker.mask(picture.picture, file=sound(picture.mask), alpha=picture.alpha)

    def _control(self, picture: Opened) -> Any:
        assert self.maker is not None
        with self.lock:
            return self.maker.make(picture.picture, file=sound(picture.control))


def _or_fault(function: Callable[[Opened], Any], picture: Opened) -> Any:
    try:
        return function(picture)
    except BadPicture as error:
        return error


def _filled(entries: Sequence[Any], size: int) -> list[Any]:
    """Repeat the last entry until a batch is full.

    Encoders compute other bits for a batch of another size; with one size a picture's arrays do not depend on where a job
    began, and so not on what was killed when.
    """
    return [*entries, *[entries[-1]] * (size - len(entries))]


def _half(values: Tensor) -> list[bytes | None]:
    """Return each row of (B, ...) as raw little-endian float16 bytes; None where a value is not finite in float16."""
    import torch

    half = values.detach().to(torch.float16)
    finite = torch.isfinite(half).flatten(1).all(dim=1).tolist()
    return [row.tobytes() if good else None for row, good in zip(half.cpu().numpy(), finite, strict=True)]


def _fault(key: bytes, error: BadPicture) -> dict[str, Any]:
    return {"key": key, "reason": str(error), "lasting": not isinstance(error, Passing)}
