"""Read single rows of one shard: plain binary values at known places of a parquet file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.errors import UserError

_TWO_HEADERS = 42
"""Bytes of two page headers at least; one takes about 21."""


class ShardReader:
    """One open parquet file and its array columns."""

    def __init__(self, uri: str) -> None:
        path = storage.fetch(uri)
        metadata = pq.read_metadata(path)
        layout, groups = (
            metadata.schema,
            [metadata.row_group(i) for i in range(metadata.num_row_groups)],
        )
        file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed with the dataset
        self.columns = {
            layout.column(i).name: _Column(
                file, layout.column(i).length, [(g.column(i), g.num_rows) for g in groups]
            )
            for i in range(metadata.num_columns)
            if layout.column(i).name != "key"
        }


class _Column:
    """Equally long binary values, read straight into an array,
    without decoding and without another copy.

    The writer stores required, plain, uncompressed, fixed-size values in one page a row group, so
    a chunk is a page header of a few bytes and then the values to its end. Reading them at their
    place copies once; mapping the file and copying would pay for every page of it as well.
    """

    def __init__(self, file: BinaryIO, width: int, chunks: Sequence[tuple[Any, int]]) -> None:
        self.file, self.width = file, width
        self.descriptor = file.fileno()
        starts = [_start(chunk, width, rows) + width * np.arange(rows) for chunk, rows in chunks]
        self.starts = np.concatenate(starts)

    def read(self, row: int, into: memoryview) -> None:
        """Read the value of a row into `width` bytes; thread-safe."""
        if os.preadv(self.descriptor, (into,), self.starts.item(row)) != self.width:
            raise OSError(
                f"{self.file.name!r} ends before its row {row}; the file was cut after it was "
                "written"
            )


def _start(chunk: Any, width: int, rows: int) -> int:
    """Return the place in the file of a column chunk's first value."""
    start: int = chunk.data_page_offset + chunk.total_compressed_size - rows * width
    header = start - chunk.data_page_offset
    if not width or chunk.compression != "UNCOMPRESSED" or not 0 < header < _TWO_HEADERS:
        raise UserError(
            f"The dataset's column {chunk.path_in_schema!r} is not stored as this program writes "
            "it (plain, uncompressed, one page a row group); it cannot be read safely. Prepare "
            "the dataset again."
        )
    return start
