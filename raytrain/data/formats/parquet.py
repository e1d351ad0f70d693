"""Parquet with the images inside, as the `datasets` library and the hub read it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.formats import Entry, Output

CARRIES, INSIDE = frozenset(("several",)), False
GROUP, SHARD = 100, 400 * 2**20
"""Rows of a row group, and bytes of images after which a new shard begins; the hub suggests less
than 500 MB."""


def write(entries: Iterable[Entry], output: Output) -> None:
    """Write `data/train-00000.parquet` and so on: `image`, a struct {bytes, path}, and `text`,
    which is a list of texts where any image has several captions."""
    schema = _schema("several" in output.uses)
    rest = iter(entries)
    for number in itertools.count():
        first = next(rest, None)
        if first is None:
            return
        rows = _shard(itertools.chain([first], rest), output, "several" in output.uses)
        with (
            output.stream(f"data/train-{number:05d}.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            while group := list(itertools.islice(rows, GROUP)):
                writer.write_table(pa.Table.from_pylist(group, schema))


def _shard(entries: Iterable[Entry], output: Output, several: bool) -> Iterator[dict[str, Any]]:
    held = 0
    for entry in entries:
        content, texts = output.read(entry.item.location), list(entry.item.captions)
        held += len(content)
        text: Any = texts if several else "".join(texts)
        yield {"image": {"bytes": content, "path": entry.name}, "text": text}
        if held > SHARD:
            return


def _schema(several: bool) -> pa.Schema:
    """Return the columns; their metadata is how the `datasets` library knows an image."""
    value = {"dtype": "string", "_type": "Value"}
    features = {
        "image": {"_type": "Image"},
        "text": {"feature": value, "_type": "List"} if several else value,
    }
    return pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "text": pa.list_(pa.string()) if several else pa.string(),
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
