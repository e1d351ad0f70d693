"""The columns of a table file by groups of rows: a parquet file's row groups, or the record
batches of an Arrow stream, as Hugging Face `datasets` saves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq


class Groups(Protocol):
    """A table file that is open. Errors are pyarrow's."""

    schema: pa.Schema
    number: int
    """Of groups."""

    def rows(self, group: int) -> int:
        """Return the rows of a group."""

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """Return columns of a group; a dot leads into a struct."""

    def facts(self, group: int, column: str) -> tuple[bool, int]:
        """Return whether a column of a group is known to be all null, and its unpacked bytes."""


def opened(file: str, stream: IO[bytes]) -> Groups:
    """Return the groups of a file by its name."""
    return Arrow(stream) if file.partition("?")[0].endswith(".arrow") else Parquet(stream)


class Parquet:
    """Row groups of a parquet file."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._file = pq.ParquetFile(stream)
        self.schema, self.number = self._file.schema_arrow, self._file.num_row_groups

    def rows(self, group: int) -> int:
        """See `Groups`."""
        return int(self._file.metadata.row_group(group).num_rows)

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """See `Groups`."""
        return self._file.read_row_group(group, columns=list(columns))

    def facts(self, group: int, column: str) -> tuple[bool, int]:
        """See `Groups`; from the file's statistics."""
        facts = self._file.metadata.row_group(group)
        for index in range(facts.num_columns):
            found = facts.column(index)
            if found.path_in_schema == column:
                statistics = found.statistics
                empty = (
                    statistics is not None
                    and statistics.has_null_count
                    and statistics.null_count == facts.num_rows
                )
                return bool(empty), int(found.total_uncompressed_size)
        return False, 0


class Arrow:
    """Record batches of an Arrow stream; the last one read is held."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        with pa.ipc.open_stream(stream) as reader:
            self.schema = reader.schema
            self._rows = [int(batch.num_rows) for batch in reader]
        self.number, self._next = len(self._rows), 0
        self._batch: pa.RecordBatch | None = None

    def rows(self, group: int) -> int:
        """See `Groups`."""
        return self._rows[group]

    def read(self, group: int, columns: Sequence[str]) -> pa.Table:
        """See `Groups`."""
        outer = list(dict.fromkeys(column.split(".")[0] for column in columns))
        return pa.Table.from_batches([self._at(group)]).select(outer)

    def facts(self, group: int, column: str) -> tuple[bool, int]:
        """See `Groups`."""
        found = self._at(group)
        array = found.column(found.schema.get_field_index(column.split(".")[0]))
        for name in column.split(".")[1:]:
            array = array.field(name)
        return bool(array.null_count == len(array)), int(array.nbytes)

    def _at(self, group: int) -> pa.RecordBatch:
        """Return a batch; IndexError where there is none. A stream is read from its start."""
        if self._batch is None or group != self._next - 1:
            if self._batch is None or group < self._next:
                self._stream.seek(0)
                self._reader, self._next = pa.ipc.open_stream(self._stream), 0
            while self._next <= group:
                try:
                    self._batch = self._reader.read_next_batch()
                except StopIteration:
                    raise IndexError(f"no batch {group}") from None
                self._next += 1
        return self._batch
