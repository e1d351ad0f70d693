"""The dataset on storage. THE contract between preparation and training.

    <dataset>/moments/bucket=<W>x<H>/<hash>.parquet    arrays by content address: VAE moments, float16
    <dataset>/masks/bucket=<W>x<H>/<hash>.parquet      loss masks at latent size, uint8
    <dataset>/controls/bucket=<W>x<H>/<hash>.parquet   control pictures, uint8 (3, H, W)
    <dataset>/text/<hash>.parquet                      encoded captions, float16 columns of the family
    <dataset>/notes/<hash>.parquet                     what captioners and scorers said, by version and picture
    <dataset>/catalog/<hash>.parquet                   what looking at each source file found, by its stamp
    <dataset>/rows/bucket=<W>x<H>/<hash>.parquet       rows of a snapshot: which arrays make a row
    <dataset>/rejected/<hash>.parquet                  path, rule and reason of everything a snapshot left out
    <dataset>/snapshots/<number>.json                  a version of the dataset: its rows, its shards, its settings
    <dataset>/manifest.json                            the newest snapshot, written last: no dataset without it

Every array is stored once, under the hash of all it depends on; a row is a list of such addresses. Files are immutable and named
by their content, so a run that is killed, repeated or run twice at once adds files and never harms one. Only `raytrain data gc`
deletes.

Array columns hold raw little-endian bytes, required and of fixed size, uncompressed, one page a row group, so that a
reader copies them into place without decoding; Arrow's list and Ray's tensor types read ten times slower.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from raytrain.table import Names, Table

VERSION = 2
MANIFEST = "manifest.json"
SNAPSHOTS = "snapshots"
MOMENTS = "moments"
MASKS = "masks"
CONTROLS = "controls"
TEXT = "text"
STORES = (MOMENTS, MASKS, CONTROLS, TEXT)
TRAIN, HELD_OUT = "train", "held_out"

PLACES = pa.list_(
    pa.struct([("shard", pa.int32()), ("row", pa.int32()), ("crop_top", pa.int32()), ("crop_left", pa.int32())])
)
_HASH, _SIZE = pa.binary(32), pa.int32()
ROWS = pa.schema({
    "row_key": _HASH, "id": _HASH, "split": pa.string(), "path": pa.string(), "location": pa.string(),
    "captions": pa.list_(pa.string()), "original_height": _SIZE, "original_width": _SIZE,
    "repeats": pa.int32(), "weight": pa.float32(), "regularisation": pa.bool_(), "scores": pa.list_(pa.float64()),
    **dict.fromkeys(STORES, PLACES),
})  # fmt: skip
"""Columns of a snapshot's rows, which are sorted by id in each bucket. `row_key`: hash over all that the row is made of. The last
four columns list the row's versions of each array; `shard` counts into the manifest's shards of that store."""

Shape = Annotated[tuple[int, ...], Field(strict=False)]


class Part(Table):
    """One file of a snapshot's rows; all rows are of one bucket."""

    path: str
    """Relative to the dataset folder."""
    bucket: str
    rows: int


class BucketCount(Table):
    """Rows of one bucket."""

    train: int = 0
    held_out: int = 0
    entries: int = 0
    """Training rows counted as often as an epoch shows them."""


class Manifest(Table):
    """A snapshot: enough to plan a training run without opening a shard."""

    version: int = VERSION
    number: int = 1
    """Which snapshot this is, counted from 1."""
    complete: bool = True
    """False while preparation was still writing."""
    family: str
    vae_hash: str
    text_hash: str
    fingerprint: str
    """Hash over all rows, their splits, repeats and weights: equal fingerprints mean equal training data."""
    stored_channels: int
    """Channels stored of a latent."""
    latent_factor: int
    """Pixels per latent cell along one side."""
    text_shapes: dict[str, Shape]
    """Text column -> shape of one row's array."""
    buckets: dict[str, BucketCount]
    """`WxH` -> rows."""
    parts: Annotated[tuple[Part, ...], Field(strict=False)]
    shards: dict[str, Names]
    """Store -> its shards' paths, relative to the dataset folder."""
    empty_text: str
    """The path of the shard with the empty caption (its only row)."""
    rejected: int = 0
    rejected_path: str = ""
    bytes: int = 0
    """Bytes of all shards that rows live in."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The [data] table the dataset was made with."""

    def moments_shape(self, bucket: str) -> tuple[int, int, int]:
        """Shape (channels, h, w) of what is stored of one row's latents in a bucket named `WxH`."""
        return self.stored_channels, *self.latent_size(bucket)

    def latent_size(self, bucket: str) -> tuple[int, int]:
        """Shape (h, w) of one row's latents in a bucket named `WxH`."""
        width, height = bucket_size(bucket)
        return height // self.latent_factor, width // self.latent_factor


def bucket_name(width: int, height: int) -> str:
    """Return the name of a bucket, `WxH` in pixels."""
    return f"{width}x{height}"


def bucket_size(name: str) -> tuple[int, int]:
    """Return (width, height) in pixels of a bucket named `WxH`."""
    width, height = name.split("x")
    return int(width), int(height)


def content_key(*parts: Any) -> str:
    """Return the sha256 over JSON-able parts, in hexadecimal: the content address of whatever they determine."""
    return content_digest(*parts).hex()


def content_digest(*parts: Any) -> bytes:
    """Return the sha256 over JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
