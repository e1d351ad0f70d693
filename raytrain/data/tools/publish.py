"""Publish a dataset: its images and captions as a folder that the `datasets` library loads and the
hub takes.

    imagefolder   <folder>/train/<id>.png ... train/metadata.jsonl, the same under test/ for what
                  is held out
    parquet       <folder>/data/train-00000-<hash>.parquet with a column `image` of the struct
                  {bytes, path}

Formats: https://huggingface.co/docs/datasets/image_dataset,
https://huggingface.co/docs/hub/datasets-cards. Images are the source files' own bytes, checked
against the content hash they were prepared from. The card, README.md, is written last; run again,
what is there is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain import __version__, storage
from raytrain.config.data import DataConfig
from raytrain.data.annotate.caption_text import whole
from raytrain.data.files.fetch import Fetcher
from raytrain.data.image import image, kinds
from raytrain.data.image.image import BadImage
from raytrain.data.image.opening import ahead
from raytrain.data.store import tables
from raytrain.data.store.schema import HELD_OUT, TRAIN, Manifest
from raytrain.data.tools.browse import open_snapshot, rows_table, shown
from raytrain.errors import UserError
from raytrain.table import Table

SPLITS = {TRAIN: "train", HELD_OUT: "test"}
CARD, MARK = "README.md", ".raytrain-publish.json"
READERS = 8
"""Images read at a time."""
SHARD_BYTES = 400 * 2**20
"""Image bytes of one parquet shard, about; the hub suggests less than 500 MB."""
SHARD_ROWS = 50_000
PROBED = 64
"""Images whose mean size decides how many go into a shard."""
FOLDER_FILES = 5000
"""A split with more images has folders named by the first two digits of their hash;
the hub takes 10,000 files a folder."""
ROW_GROUP = 100
"""Rows of a parquet row group: what the hub's viewer reads at once."""
ENDINGS = {"PNG": "png", "JPEG": "jpg", "WebP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
"""Formats that stay as they are, and the ending of their files; any other becomes PNG,
since imagefolder lists no such file."""
_OURS = re.compile(
    r"(train|test)/([0-9a-f]{2}/)?[0-9a-f]{64}\.\w+|data/(train|test)-\d{5}-[0-9a-f]{16}\.parquet"
)
_IMAGES = """
    SELECT id, first(path ORDER BY bucket) AS path, first(location ORDER BY bucket) AS location,
           first(captions ORDER BY bucket) AS captions, first(scores ORDER BY bucket) AS scores,
           first(original_width ORDER BY bucket) AS width,
           first(original_height ORDER BY bucket) AS height,
           max(repeats) AS repeats, max(weight) AS weight,
           bool_or(regularization) AS regularization
    FROM rows WHERE split = $split GROUP BY id ORDER BY id
"""


class Published(Table):
    """What was written."""

    folder: str
    format: str
    images: dict[str, int]
    """Split -> images."""
    kept: int
    """Images that were there already."""


class _Gone(Exception):  # noqa: N818 - a verdict on one image
    """An image that cannot be published, and why."""


def publish(
    dataset: str, folder: str, which: str = "latest", format: str = "imagefolder"
) -> Published:
    """Write a snapshot's images, each once, with their captions;
    memory does not grow with the dataset.

    Raises UserError when the folder holds something else, cannot be written, or images are gone or
    have changed; what was written stays for the next try, but there is no card.
    """
    manifest = open_snapshot(dataset, which)
    _check_folder(folder)
    storage.write_json(storage.join(folder, MARK), {"snapshot": manifest.number, "format": format})
    storage.remove(storage.join(folder, CARD))
    writer = FORMATS[format](folder, manifest)
    with tables.database() as sql:
        sql.register("rows", rows_table(dataset, manifest))
        for split, name in SPLITS.items():
            sql.execute("DROP TABLE IF EXISTS images")
            sql.execute(f"CREATE TEMP TABLE images AS {_IMAGES}", {"split": split})
            count = int(sql.execute("SELECT count(*) FROM images").fetchall()[0][0])
            if count:
                ordered = sql.sql("SELECT * FROM images ORDER BY id").to_arrow_reader(1024)
                writer.write(name, count, (row for batch in ordered for row in batch.to_pylist()))
    if writer.gone:
        raise UserError(_missing(writer.gone, manifest))
    for file in storage.files(folder):
        if _OURS.fullmatch(file.path) and file.path not in writer.files:
            storage.remove(storage.join(folder, file.path))  # of another snapshot or format
    for name in (
        {*SPLITS.values()} - {*writer.counts} if format == "imagefolder" else SPLITS.values()
    ):
        storage.remove(storage.join(folder, name, "metadata.jsonl"))
    storage.write_bytes(
        storage.join(folder, CARD), _card(manifest, format, writer.counts).encode()
    )
    return Published(folder=folder, format=format, images=writer.counts, kept=writer.kept)


class _Writer:
    """What both formats share: reading an image, and remembering what was written and what is
    gone."""

    def __init__(self, folder: str, manifest: Manifest) -> None:
        self.folder = folder
        self.data = DataConfig.model_validate(manifest.settings)
        self.fetcher = Fetcher(self.data.fetch)
        self.scores = [score.name for score in self.data.quality.scores]
        self.there = {file.path for file in storage.files(folder)}
        self.files: set[str] = set()
        self.counts: dict[str, int] = {}
        self.gone: list[tuple[str, str]] = []
        self.kept = 0

    def read(self, row: dict[str, Any]) -> tuple[str, bytes]:
        """Return an image's file name and bytes; raises _Gone."""
        try:
            content = self.fetcher.read(row["location"])
            if hashlib.sha256(content).digest() != row["id"]:
                raise _Gone("its bytes are no longer those that were prepared")
            ending = ENDINGS.get(kinds.own(content))
            if ending is None:
                content, ending = _as_png(content, self.data), "png"
        except (BadImage, OSError) as error:
            raise _Gone(str(error)) from error
        return f"{row['id'].hex()}.{ending}", content

    def facts(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return the columns other than the image."""
        captions = whole(row["captions"] or (), self.data.captions)
        facts = {"text": next(iter(captions), ""), "captions": captions, "path": row["path"]}
        facts |= {
            name: row[name] for name in ("width", "height", "repeats", "weight", "regularization")
        }
        return facts | dict(
            zip((f"score_{name}" for name in self.scores), row["scores"] or (), strict=False)
        )

    def fail(self, row: dict[str, Any], error: _Gone) -> None:
        """Remember an image that is gone."""
        self.gone.append((row["path"], str(error)))


class _Imagefolder(_Writer):
    def write(self, split: str, count: int, rows: Iterator[dict[str, Any]]) -> None:
        """Write the images of a split, then its metadata.jsonl, a line for each."""
        names = {
            PurePosixPath(path).stem: path for path in self.there if path.startswith(f"{split}/")
        }
        self.counts[split] = count

        def place(row: dict[str, Any]) -> str | _Gone:
            identity = row["id"].hex()
            folder = f"{split}/{identity[:2]}" if count > FOLDER_FILES else split
            if (path := names.get(identity)) and path.rpartition("/")[0] == folder:
                return path
            try:
                name, content = self.read(row)
            except _Gone as error:
                return error
            storage.write_bytes(storage.join(self.folder, folder, name), content)
            return f"{folder}/{name}"

        def lines() -> Iterator[bytes]:
            with ThreadPoolExecutor(READERS) as pool:
                for row, path in ahead(pool, lambda row: (row, place(row)), rows, 4 * READERS):
                    if isinstance(path, _Gone):
                        self.fail(row, path)
                        continue
                    self.files.add(path)
                    self.kept += path in self.there
                    line = {"file_name": path.removeprefix(f"{split}/"), **self.facts(row)}
                    yield json.dumps(line, ensure_ascii=False).encode() + b"\n"

        target = storage.join(self.folder, split, "metadata.jsonl")
        with (
            contextlib.suppress(_Gone),
            storage.atomic(target) as temporary,
            open(temporary, "wb") as file,
        ):
            file.writelines(lines())
            if self.gone:  # all are listed in the end; a list without them would look whole
                raise _Gone


class _Parquet(_Writer):
    def write(self, split: str, count: int, rows: Iterator[dict[str, Any]]) -> None:
        """Write the images of a split in shards named by what they hold."""
        self.counts[split] = count
        with ThreadPoolExecutor(READERS) as pool:
            probe = list(itertools.islice(rows, PROBED))
            size = self._rows_a_shard(list(pool.map(self._read, probe)))
            for number, part in enumerate(tables.batched(itertools.chain(probe, rows), size)):
                self._shard(pool, split, number, part)

    def _rows_a_shard(self, read: list[tuple[str, bytes] | _Gone]) -> int:
        sizes = [len(one[1]) for one in read if not isinstance(one, _Gone)]
        return max(1, min(SHARD_ROWS, SHARD_BYTES * len(sizes) // sum(sizes))) if sizes else PROBED

    def _read(self, row: dict[str, Any]) -> tuple[str, bytes] | _Gone:
        try:
            return self.read(row)
        except _Gone as error:
            return error

    def _shard(
        self, pool: ThreadPoolExecutor, split: str, number: int, rows: list[dict[str, Any]]
    ) -> None:
        facts = [{"id": row["id"].hex(), **self.facts(row)} for row in rows]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        path = f"data/{split}-{number:05d}-{digest[:16]}.parquet"
        self.files.add(path)
        if path in self.there:
            self.kept += len(rows)
            return
        found = ahead(
            pool,
            lambda pair: (pair, self._read(pair[0])),
            zip(rows, facts, strict=True),
            4 * READERS,
        )
        before = len(self.gone)

        def lines() -> Iterator[dict[str, Any]]:
            for (row, facts), read in found:
                if isinstance(read, _Gone):
                    self.fail(row, read)
                elif len(self.gone) == before:
                    yield {"image": {"bytes": read[1], "path": read[0]}, **facts}

        schema = self._schema()
        with (
            contextlib.suppress(_Gone),
            storage.atomic(storage.join(self.folder, path)) as temporary,
        ):
            groups = (
                pa.Table.from_pylist(part, schema) for part in tables.batched(lines(), ROW_GROUP)
            )
            _write_parquet(temporary, groups, schema)
            if (
                len(self.gone) > before
            ):  # all are listed in the end; a shard without them would look whole
                raise _Gone

    def _schema(self) -> pa.Schema:
        """Return the columns; their metadata is how the `datasets` library knows an image."""
        columns: dict[str, Any] = {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "id": pa.string(),
        }
        columns |= {"text": pa.string(), "captions": pa.list_(pa.string()), "path": pa.string()}
        columns |= {
            "width": pa.int32(),
            "height": pa.int32(),
            "repeats": pa.int32(),
            "weight": pa.float32(),
        }
        columns |= {"regularization": pa.bool_()} | {
            f"score_{name}": pa.float64() for name in self.scores
        }
        names = {
            pa.string(): "string",
            pa.int32(): "int32",
            pa.float32(): "float32",
            pa.float64(): "float64",
            pa.bool_(): "bool",
        }
        features: dict[str, Any] = {
            name: {"dtype": names[kind], "_type": "Value"}
            for name, kind in columns.items()
            if kind in names
        }
        features["image"] = {"_type": "Image"}
        features["captions"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
        ordered = {name: features[name] for name in columns}
        return pa.schema(
            columns, metadata={"huggingface": json.dumps({"info": {"features": ordered}})}
        )


FORMATS: dict[str, type[_Imagefolder] | type[_Parquet]] = {
    "imagefolder": _Imagefolder,
    "parquet": _Parquet,
}


def _write_parquet(path: str, groups: Iterator[pa.Table], schema: pa.Schema) -> None:
    with pq.ParquetWriter(
        path,
        schema,
        compression={name: "none" if name == "image" else "zstd" for name in schema.names},
    ) as writer:
        for group in groups:
            writer.write_table(group)


def _as_png(content: bytes, data: DataConfig) -> bytes:
    buffer = io.BytesIO()
    image.decode(content, data.max_pixels, data.background).save(buffer, "PNG")
    return buffer.getvalue()


def _check_folder(folder: str) -> None:
    names = storage.names(folder)
    if names and MARK not in names:
        raise UserError(
            f"A dataset is published to a folder of its own, but {folder!r} holds "
            f"{', '.join(names[:3])} and was not written by this command; files could be mixed "
            "up. Give a new folder."
        )


def _missing(gone: list[tuple[str, str]], manifest: Manifest) -> str:
    first = "\n".join(f"  {shown(path)}: {reason}" for path, reason in gone[:5])
    return (
        f"{len(gone)} of the images of snapshot {manifest.number} cannot be read where they were "
        f"prepared from:\n{first}\n"
        "There is no card, so the folder is not published; what was written is kept. Bring the "
        "files back, or run `raytrain prepare` so that a snapshot has only what is there, then "
        "publish again."
    )


def _card(manifest: Manifest, format: str, counts: dict[str, int]) -> str:
    total = sum(counts.values())
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("raytrain.data.tools", "."),
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("card.md").render(
        manifest=manifest,
        format=format,
        counts=counts,
        total=total,
        size=_size_category(total),
        version=__version__,
        captions=manifest.settings.get("captions", {}),
        held_out=manifest.settings.get("held_out"),
    )


def _size_category(total: int) -> str:
    """Return the hub's name for a number of rows."""
    names = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
    return next((name for power, name in enumerate(names, start=3) if total < 10**power), "n>1B")


def upload_command(published: Published) -> str:
    """Return the hub client's own command that sends the folder;
    the user chooses the name of the repository."""
    return f"hf upload <user>/<name> {published.folder} . --repo-type dataset"
