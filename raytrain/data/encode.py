"""Encode pictures and captions into shards: a pool of Ray Data actors, one call a shard.

While the encoders work on one batch, threads read, decode and resize the next ones (Pillow releases the
interpreter), so a shard costs what its VAE costs. Pixels and moments never leave the actor: it writes its shard itself.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from raytrain import storage
from raytrain.config import Config, Table
from raytrain.data import write
from raytrain.data.copy import RowReader
from raytrain.data.index import Row
from raytrain.data.picture import BadPicture, Placement, cut, decode, place
from raytrain.data.plan import EMPTY_ID, Work, from_block
from raytrain.data.scan import Rejected
from raytrain.data.schema import MOMENTS
from raytrain.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = NDArray[np.uint8]


class ShardReport(Table):
    """What one call did."""

    rows: int = 0
    """Rows of the call, rejected ones included."""
    pictures: int = 0
    captions: int = 0
    encoded: int = 0
    """Rows with anything encoded; the others were copied."""
    rejected: Annotated[tuple[Rejected, ...], Field(strict=False)] = ()
    error: str = ""
    """A user's mistake that stopped the shard, such as a full disk."""


class ShardEncoder:
    """One worker: the family's encoders on one device, and decoding threads."""

    def __init__(self, config: Config, text_key: str, latent_factor: int) -> None:
        from raytrain import families

        encode = config.data.encode
        torch.set_num_threads(max(1, int(encode.cpus_per_worker)))
        self.config, self.text_key, self.latent_factor = config, text_key, latent_factor
        self.device = torch.device("cuda" if encode.gpus_per_worker > 0 else "cpu")
        dtype = torch.bfloat16 if encode.precision == "bf16" else torch.float32
        self.family = families.load(config.model.family)
        self.encoders = self.family.load_encoders(config.model, self.device, dtype)
        self.pool = ThreadPoolExecutor(max(2, int(encode.cpus_per_worker)))
        self.reader = RowReader(config.dataset)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write the shard that a block of work describes; return its report, and the empty caption's file if asked."""
        content = b""
        try:
            if block["id"][0].as_py() == EMPTY_ID:
                report, content = ShardReport(), self._empty()
            else:
                report = self._shard(from_block(block))
        except UserError as error:
            report = ShardReport(error=str(error))
        return pa.table({"report": [report.model_dump_json()], "empty": pa.array([content], pa.binary())})

    def _shard(self, work: Sequence[Work]) -> ShardReport:
        rows: list[Row] = []
        columns: dict[str, list[bytes]] = {name: [] for name in (MOMENTS, *self.family.TEXT_COLUMNS)}
        rejected: list[Rejected] = []
        pictures = captions = encoded = 0
        loaded = _ahead(self.pool, self._pixels, work, 3 * self.config.data.encode.batch)
        for batch in _batches(zip(work, loaded, strict=True), self.config.data.encode.batch):
            moments = self._moments(batch)
            texts = self._texts([item for item, _ in batch])
            for (item, _), latent, text in zip(batch, moments, texts, strict=True):
                if isinstance(latent, Rejected):
                    rejected.append(latent)
                    continue
                if isinstance(text, Rejected):
                    rejected.append(text)
                    continue
                rows.append(item.row)
                columns[MOMENTS].append(latent)
                for name, value in text.items():
                    columns[name].append(value)
                pictures += item.moments_from is None
                captions += item.text_from is None
                encoded += item.moments_from is None or item.text_from is None
        if rows:
            write.write_shard(self.config.dataset, rows, columns, self.config.data.encode.group_rows)
        return ShardReport(
            rows=len(work), pictures=pictures, captions=captions, encoded=encoded, rejected=tuple(rejected)
        )

    def _pixels(self, item: Work) -> Pixels | BadPicture | None:
        """Read and decode one picture; None where its moments are copied."""
        if item.moments_from is not None:
            return None
        try:
            content = storage.read_bytes(storage.join(self.config.data.source, item.row.path))
            picture = decode(content, self.config.data.max_pixels)
            return cut(picture, self._placement(item.row), (item.row.width, item.row.height))
        except BadPicture as error:
            return error
        except OSError as error:
            return BadPicture(f"cannot be read: {error}")

    def _placement(self, row: Row) -> Placement:
        return place(row.original_width, row.original_height, (row.width, row.height),
                     self.config.data.crop, row.id, self.config.seed)  # fmt: skip

    def _moments(self, batch: Sequence[tuple[Work, Any]]) -> list[bytes | Rejected]:
        """Return each row's moments (2C, h, w) as float16 bytes, encoded or copied."""
        stack = [pixels for _, pixels in batch if isinstance(pixels, np.ndarray)]
        encoded = iter(self._encode(np.stack(stack)) if stack else ())
        result: list[bytes | Rejected] = []
        for item, pixels in batch:
            if isinstance(pixels, np.ndarray):
                value = next(encoded)
                result.append(value or _reject(item, "the VAE gave NaN or values beyond half precision", True))
            elif isinstance(pixels, BadPicture):
                result.append(_reject(item, str(pixels), not str(pixels).startswith("cannot be read")))
            else:
                assert item.moments_from is not None
                result.append(self.reader.get(item.moments_from, (MOMENTS,))[MOMENTS])
        return result

    def _encode(self, pixels: Pixels) -> list[bytes | None]:
        """Encode pixels (B, H, W, 3), 0 to 255, into float16 bytes of moments (2C, h, w); None where not finite."""
        scaled = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2).contiguous().float().div_(127.5).sub_(1)
        moments = self.encoders.encode_pictures(scaled)
        expected = tuple(side // self.latent_factor for side in pixels.shape[1:3])
        if tuple(moments.shape[2:]) != expected:
            raise UserError(
                f"The VAE must divide every side of a bucket by {self.latent_factor}, but {pixels.shape[1:3]} pixels "
                f"became {tuple(moments.shape[2:])} latents, not {expected}. "
                "Choose bucket sizes it can encode (data.buckets.step)."
            )
        return _half(moments)

    def _texts(self, work: Sequence[Work]) -> list[dict[str, bytes] | Rejected]:
        """Return each row's text columns as float16 bytes, encoded (each caption of a batch once) or copied."""
        captions = list(dict.fromkeys(item.row.caption for item in work if item.text_from is None))
        encoded = dict(zip(captions, self._encode_captions(captions), strict=True))
        result: list[dict[str, bytes] | Rejected] = []
        for item in work:
            if item.text_from is not None:
                result.append(self.reader.get(item.text_from, self.family.TEXT_COLUMNS))
            else:
                value = encoded[item.row.caption]
                reason = "the text encoder gave NaN or values beyond half precision"
                result.append(value or _reject(item, reason, False))
        return result

    def _encode_captions(self, captions: Sequence[str]) -> list[dict[str, bytes] | None]:
        if not captions:
            return []
        columns = {name: _half(values) for name, values in self.encoders.encode_captions(captions).items()}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        return [None if None in row.values() else row for row in rows]

    def _empty(self) -> bytes:
        shapes = {name: tuple(value.shape[1:]) for name, value in self.encoders.encode_captions([""]).items()}
        row = self._encode_captions([""])[0]
        if row is None:
            raise UserError(
                "The text encoder must give finite half-precision numbers, but gives NaN or larger ones for the empty "
                'caption. Nothing can be trained on them; use data.encode.precision = "fp32" or another model.'
            )
        return write.empty_row(row, shapes, self.text_key)


def _half(values: Tensor) -> list[bytes | None]:
    """Return each row of (B, ...) as raw little-endian float16 bytes; None where a value is not finite in float16."""
    half = values.detach().to(torch.float16)
    finite = torch.isfinite(half).flatten(1).all(dim=1).tolist()
    return [row.tobytes() if good else None for row, good in zip(half.cpu().numpy(), finite, strict=True)]


def _reject(item: Work, reason: str, lasting: bool) -> Rejected:
    return Rejected(path=item.row.path, reason=reason, key=item.row.latent_key if lasting else "")


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Like map, but at most `depth` results are waiting at any time."""
    pending: deque[Future[Result]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
