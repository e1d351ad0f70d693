"""The dataset on storage: columns of a row and the manifest. THE contract between preparation and training.

    <dataset>/bucket=<W>x<H>/<content hash>.parquet    immutable shards, plain binary columns, no compression
    <dataset>/empty.parquet                            one row: the text columns of the empty caption
    <dataset>/rejected.parquet                         path and reason of every picture that was left out
    <dataset>/captions/<content hash>.parquet          what the captioner wrote, by captioner version and picture
    <dataset>/manifest.json                            written last: a dataset without it does not exist

A shard is never rewritten. A row that became stale is listed under its shard's `dropped` and ignored by readers.
Array columns hold raw little-endian float16 bytes, required and of fixed size, one page a row group, so that a reader maps
them without decoding; their shapes are in the manifest. Arrow's list and Ray's tensor types read ten times slower.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import Field

from raytrain.config import Table

VERSION = 1
MANIFEST = "manifest.json"
REJECTED = "rejected.parquet"
EMPTY = "empty.parquet"
MOMENTS = "moments"
INDEX_COLUMNS = ("id", "split", "path", "caption", "latent_key", "text_key")
"""id: sha256 of the picture's bytes; split: `train` or `held_out`; path: relative to `settings["source"]`; caption: trigger
word included; keys: content addresses of moments and text."""
SIZE_COLUMNS = ("original_height", "original_width", "crop_top", "crop_left", "height", "width")
"""int32 pixels, in the order of SDXL's size conditioning; crop counts in the resized picture, height/width are the bucket's."""

Shape = Annotated[tuple[int, ...], Field(strict=False)]


class Shard(Table):
    """One parquet file of one bucket."""

    path: str
    """Relative to the dataset folder."""
    bucket: str
    rows: int
    bytes: int
    dropped: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Row numbers that became stale."""


class BucketCount(Table):
    """Live rows of one bucket."""

    train: int = 0
    held_out: int = 0


class Manifest(Table):
    """What a dataset is: enough to plan a training run without opening a shard."""

    version: int = VERSION
    family: str
    vae_hash: str
    text_hash: str
    fingerprint: str
    """Hash over every live row's keys, order-free: equal fingerprints mean equal training data."""
    latent_channels: int
    latent_factor: int
    """Pixels per latent cell along one side."""
    text_shapes: dict[str, Shape]
    """Text column -> shape of one row's array."""
    buckets: dict[str, BucketCount]
    """`WxH` -> live rows."""
    shards: Annotated[tuple[Shard, ...], Field(strict=False)]
    rejected: int = 0
    settings: dict[str, Any] = Field(default_factory=dict)
    """The [data] table the dataset was made with."""

    def moments_shape(self, bucket: str) -> tuple[int, int, int]:
        """Shape (2C, h, w) of one row's moments in a bucket named `WxH`."""
        width, height = bucket_size(bucket)
        return 2 * self.latent_channels, height // self.latent_factor, width // self.latent_factor


def bucket_name(width: int, height: int) -> str:
    """Return the name of a bucket, `WxH` in pixels."""
    return f"{width}x{height}"


def bucket_size(name: str) -> tuple[int, int]:
    """Return (width, height) in pixels of a bucket named `WxH`."""
    width, height = name.split("x")
    return int(width), int(height)


def content_key(*parts: Any) -> str:
    """Return the sha256 over JSON-able parts: the content address of whatever they determine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
