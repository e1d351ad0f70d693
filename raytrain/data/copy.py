"""Read single rows of existing shards, to carry their arrays into a new one without encoding."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import storage
from raytrain.data.index import Place

KEEP = 4
"""Row groups held in memory; copies come in storage order, so few are enough."""


class RowReader:
    """Reads one row at a time, fetching whole row groups and keeping the latest few."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._groups: OrderedDict[tuple[str, int, tuple[str, ...]], pa.Table] = OrderedDict()
        self._opened: tuple[str, pq.ParquetFile] | None = None

    def get(self, place: Place, columns: Sequence[str]) -> dict[str, bytes]:
        """Return the raw arrays of one stored row."""
        file = self._open(place.shard)
        number, row = 0, place.row
        while row >= file.metadata.row_group(number).num_rows:
            row -= file.metadata.row_group(number).num_rows
            number += 1
        group = self._group(place.shard, file, number, tuple(columns))
        return {name: group[name][row].as_py() for name in columns}

    def _open(self, shard: str) -> pq.ParquetFile:
        if self._opened is None or self._opened[0] != shard:
            filesystem, path = storage.resolve(storage.join(self.dataset, shard))
            self._opened = shard, pq.ParquetFile(path, filesystem=filesystem)
        return self._opened[1]

    def _group(self, shard: str, file: pq.ParquetFile, number: int, columns: tuple[str, ...]) -> pa.Table:
        key = (shard, number, columns)
        if key not in self._groups:
            self._groups[key] = file.read_row_group(number, columns=list(columns))
            while len(self._groups) > KEEP:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key]
