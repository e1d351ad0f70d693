"""The dataset on storage. THE contract between preparation and training.

    <dataset>/<column>/bucket=<W>x<H>/<hash>.parquet   arrays made of images, by content address:
                                                       latents, mask, control
    <dataset>/<column>/<hash>.parquet                  arrays made of captions: text, tokens
    <dataset>/annotations/<hash>.parquet               what captioners and scorers said, by version
                                                       and image
    <dataset>/catalog/<hash>.parquet                   what scanning each source file found, by
                                                       its stamp
    <dataset>/rows/bucket=<W>x<H>/<hash>.parquet       rows of a snapshot: which arrays make a row
    <dataset>/rejected/<hash>.parquet                  path, rule and reason of everything a
                                                       snapshot left out
    <dataset>/snapshots/<number>.json                  a version of the dataset: its rows, its
                                                       shards, its settings
    <dataset>/manifest.json                            the newest snapshot, written last: no
                                                       dataset without it

Every array is stored once, under the hash of all it depends on; a row is a list of such addresses.
Files are immutable and named by their content, so a run that is killed, repeated or run twice at
once adds files and never harms one. Only `raytrain data gc` deletes.

Array columns hold raw little-endian bytes, required and of fixed size, uncompressed, one page a
row group, so that a reader copies them into place without decoding; Arrow's list and Ray's tensor
types read ten times slower.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raytrain.table import Names, Table

VERSION = 3
MANIFEST = "manifest.json"
SNAPSHOTS = "snapshots"
TRAIN, HELD_OUT = "train", "held_out"

PLACES = pa.list_(
    pa.struct(
        [
            ("shard", pa.int32()),
            ("row", pa.int32()),
            ("crop_top", pa.int32()),
            ("crop_left", pa.int32()),
        ]
    )
)
_HASH, _SIZE = pa.binary(32), pa.int32()
ROWS = pa.schema({
    "row_key": _HASH, "id": _HASH, "split": pa.string(), "path": pa.string(),
    "location": pa.string(), "captions": pa.list_(pa.string()), "original_height": _SIZE,
    "original_width": _SIZE, "repeats": pa.int32(), "weight": pa.float32(),
    "regularization": pa.bool_(), "scores": pa.list_(pa.float64()),
})  # fmt: skip
"""What is known of a snapshot's rows, which are sorted by id in each bucket. `row_key`:
hash over all that the row is made of."""

Shape = Annotated[tuple[int, ...], Field(strict=False)]


def rows_schema(columns: Iterable[str]) -> pa.Schema:
    """Return the columns of a snapshot's rows: `ROWS`, and for each column where the row's
    versions of its array are.

    `shard` counts into the manifest's shards of that column.
    """
    return pa.schema([*ROWS, *(pa.field(name, PLACES) for name in columns)])


class Array(Table):
    """What is stored of one row's array."""

    dtype: Literal["float16", "uint8", "int32"]
    shape: Shape
    """Without the axes along the image."""
    cell: int = 0
    """Pixels along one side of an element of the last two axes, which go along the image; 0:
    there are no such axes."""

    def shape_in(self, bucket: str) -> tuple[int, ...]:
        """Return the whole shape in a bucket named `WxH`."""
        if not self.cell:
            return self.shape
        width, height = bucket_size(bucket)
        return *self.shape, height // self.cell, width // self.cell

    def bytes_in(self, bucket: str) -> int:
        """Return the bytes of one row's array."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape_in(bucket))


class Column(Table):
    """One of `raytrain.data.columns`, as a dataset stores it."""

    of: Literal["image", "caption"]
    version: dict[str, str]
    """All that its arrays depend on besides image and caption, by name."""
    tools: dict[str, str] = Field(default_factory=dict)
    """What only some versions of an image are made by: its hash, by name."""
    arrays: dict[str, Array]
    """By the name that a batch has it under."""
    empty: str = ""
    """Of a caption column, the path of the shard with the empty caption (its only row)."""


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
    columns: dict[str, Column]
    fingerprint: str
    """Hash over all rows, their splits, repeats and weights: equal fingerprints mean equal
    training data."""
    buckets: dict[str, BucketCount]
    """`WxH` -> rows."""
    parts: Annotated[tuple[Part, ...], Field(strict=False)]
    shards: dict[str, Names]
    """Column -> its shards' paths, relative to the dataset folder."""
    rejected: int = 0
    rejected_path: str = ""
    bytes: int = 0
    """Bytes of all shards that rows live in."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The [data] table the dataset was made with."""


def bucket_name(width: int, height: int) -> str:
    """Return the name of a bucket, `WxH` in pixels."""
    return f"{width}x{height}"


def bucket_size(name: str) -> tuple[int, int]:
    """Return (width, height) in pixels of a bucket named `WxH`."""
    width, height = name.split("x")
    return int(width), int(height)


def content_key(*parts: Any) -> str:
    """Return the sha256 over JSON-able parts, in hexadecimal: the content address of whatever they
    determine."""
    return content_digest(*parts).hex()


def content_digest(*parts: Any) -> bytes:
    """Return the sha256 over JSON-able parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
