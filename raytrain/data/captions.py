"""Captions for pictures that bring none: a pool of captioner actors and a content-addressed store of what they wrote.

A caption is stored under `<dataset>/captions/` by its key (captioner version + picture's content), so it is written
once whatever happens to the run, the split, the VAE or the text encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import plugins, storage
from raytrain.config import Config
from raytrain.data import flow, picture
from raytrain.data.plan import Picture
from raytrain.data.progress import Bars
from raytrain.data.scan import Rejected, clean
from raytrain.data.schema import content_key
from raytrain.errors import UserError

FOLDER = "captions"
BLOCK = 256
"""Pictures of one call, and captions of one stored file."""


def complete(pictures: Sequence[Picture], config: Config, bars: Bars) -> tuple[list[Picture], list[Rejected], int]:
    """Return the pictures with their captions, trigger word included; the rejected ones; how many were captioned now.

    Without a captioner a missing caption stays empty (or becomes the trigger word alone).
    """
    settings = config.data.captions
    missing = [item for item in pictures if not item.caption]
    written: dict[str, str] = {}
    rejected: list[Rejected] = []
    made = 0
    if missing and settings.captioner != "none":
        version = plugins.load("data.captioners", settings.captioner).version(settings)
        keys = {item.id: content_key("caption", version, item.id) for item in missing}
        known = _stored(config.dataset)
        todo = [item for item in missing if keys[item.id] not in known]
        fresh, rejected = _write(todo, keys, config, bars)
        made = len(fresh)
        known |= fresh
        written = {item.id: known[keys[item.id]] for item in missing if keys[item.id] in known}
    faulty = {item.path for item in rejected}
    good = [item for item in pictures if item.path not in faulty]
    return (
        [item._replace(caption=triggered(item.caption or written.get(item.id, ""), settings.trigger)) for item in good],
        rejected,
        made,
    )


def triggered(caption: str, trigger: str) -> str:
    """Put the trigger word before a caption."""
    return ", ".join(part for part in (trigger, caption) if part)


class CaptionWriter:
    """One worker: the captioner on one device; captions a block of pictures and stores what it wrote."""

    def __init__(self, config: Config) -> None:
        import torch

        encode = config.data.encode
        torch.set_num_threads(max(1, int(encode.cpus_per_worker)))
        device = torch.device("cuda" if encode.gpus_per_worker > 0 else "cpu")
        module = plugins.load("data.captioners", config.data.captions.captioner)
        self.config, self.captioner = config, module.Captioner(config.data.captions, device)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Caption the pictures of columns path and key; return one row: their number, captions, faults, error."""
        rows = block.to_pylist()
        with ThreadPoolExecutor(2) as pool:
            loaded = list(zip(rows, pool.map(self._load, rows), strict=True))
        faults = [{"path": row["path"], "reason": item} for row, item in loaded if isinstance(item, str)]
        good = [(row["key"], item) for row, item in loaded if item is not None and not isinstance(item, str)]
        table = pa.table({"key": [key for key, _ in good], "caption": self._caption([item for _, item in good])},
                         schema=pa.schema([("key", pa.string()), ("caption", pa.string())]))  # fmt: skip
        error = ""
        try:
            _store(self.config.dataset, table)
        except UserError as fault:
            error = str(fault)
        return pa.Table.from_pylist(
            [{"rows": len(rows), "captions": table.to_pylist(), "faults": faults, "error": error}]
        )

    def _caption(self, pictures: Sequence[Any]) -> list[str]:
        size = self.config.data.encode.batch
        batches = (pictures[start : start + size] for start in range(0, len(pictures), size))
        return [clean(caption) for batch in batches for caption in self.captioner.caption(list(batch))]

    def _load(self, row: dict[str, str]) -> Any:
        """Return the picture; the reason why it cannot be read; None for a damaged one (encoding rejects it)."""
        try:
            content = storage.read_bytes(storage.join(self.config.data.source, row["path"]))
            return picture.decode(content, self.config.data.max_pixels)
        except picture.BadPicture:
            return None
        except OSError as error:
            return f"cannot be read: {error}"


def _write(
    todo: Sequence[Picture], keys: dict[str, str], config: Config, bars: Bars
) -> tuple[dict[str, str], list[Rejected]]:
    if not todo:
        return {}, []
    blocks = [
        pa.Table.from_pylist([{"path": item.path, "key": keys[item.id]} for item in todo[start : start + BLOCK]])
        for start in range(0, len(todo), BLOCK)
    ]
    captions: dict[str, str] = {}
    rejected: list[Rejected] = []
    advance = bars("caption", len(todo))
    for row in flow.map_actors(blocks, CaptionWriter, {"config": config}, config.data.encode):
        if row["error"]:
            raise UserError(row["error"])
        captions |= {entry["key"]: entry["caption"] for entry in row["captions"]}
        rejected += [Rejected(**fault) for fault in row["faults"]]
        advance(row["rows"])
    return captions, rejected


def _stored(dataset: str) -> dict[str, str]:
    folder = storage.join(dataset, FOLDER)
    captions: dict[str, str] = {}
    for name in storage.names(folder):
        filesystem, path = storage.resolve(storage.join(folder, name))
        try:
            table = pq.read_table(path, filesystem=filesystem)
        except (pa.ArrowException, OSError):
            continue
        captions |= dict(zip(table["key"].to_pylist(), table["caption"].to_pylist(), strict=True))
    return captions


def _store(dataset: str, table: pa.Table) -> None:
    if not table.num_rows:
        return
    name = hashlib.sha256(repr(table.to_pylist()).encode()).hexdigest()
    with storage.atomic(storage.join(dataset, FOLDER, f"{name}.parquet")) as temporary:
        pq.write_table(table, temporary)
