"""Write the captions of a source, or of a prepared dataset, in another format:
`raytrain data convert SOURCE --to FORMAT OUTPUT`.

A source is read as preparation reads it, and captions from text files too. Nothing is overwritten
unless told so: what would be is found before anything is written. Memory does not grow with the
images; what is read of them is kept in a temporary file in between.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any

from raytrain import plugins, storage
from raytrain.config.captions import CaptionConfig
from raytrain.config.data import DataConfig, FetchConfig, SubsetConfig
from raytrain.data import sources
from raytrain.data.annotate.caption_text import unvaried
from raytrain.data.files.fetch import Fetcher
from raytrain.data.files.location import absolute, look, named, parent, shown
from raytrain.data.formats import Entry
from raytrain.data.image import kinds
from raytrain.data.image.image import BadImage
from raytrain.data.item import Item, Rejected
from raytrain.data.pipeline.scan import caption_text
from raytrain.data.sources._shared.seen import Seen
from raytrain.data.sources._shared.tree import is_image
from raytrain.data.store import schema, tables
from raytrain.data.tools.browse import open_snapshot, rows_table
from raytrain.data.tools.written import Written
from raytrain.errors import UserError
from raytrain.table import Table

SHOWN = 5
"""So many of a kind are named."""
DEFAULTS: dict[str, Any] = {"mask": "", "control": "", "repeats": 1, "weight": 1.0,
                            "regularization": False, "prefix": "", "suffix": "",
                            "caption_settings": ""}  # fmt: skip
_IMAGES = """
    SELECT first(path ORDER BY bucket) AS path, first(location ORDER BY bucket) AS location,
           first(captions ORDER BY bucket) AS captions, first(repeats ORDER BY bucket) AS repeats,
           first(weight ORDER BY bucket) AS weight,
           bool_or(regularization) AS regularization
    FROM rows GROUP BY id ORDER BY path
"""


class Converted(Table):
    """What was written."""

    folder: str
    images: int
    captions: int
    lost: dict[str, int]
    """What the format has no place for -> images that have it."""
    rejected: int
    first: tuple[Rejected, ...]


def convert(
    source: str,
    to: str,
    output: str = "",
    *,
    copy: bool = False,
    overwrite: bool = False,
    first: bool = False,
    which: str = "latest",
) -> Converted:
    """Write the images' captions and what else the format carries; `output` "" means next to the
    images. `copy` copies the images too, `first` takes the first of several captions.

    Raises UserError for a format that does not exist or cannot hold what there is, or files that
    would be overwritten; nothing was written then.
    """
    form: Any = plugins.load("data.formats", to)
    if copy and not output:
        raise UserError("--copy needs a folder to copy the images to: give OUTPUT.")
    fetcher = Fetcher(FetchConfig())
    rejected: list[Rejected] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryFile() as spool:
        for entry in _entries(source, which, fetcher, rejected, counts):
            texts = entry.item.captions
            if first and len(texts) > 1:
                entry = Entry(entry.item._replace(captions=texts[:1]), entry.name)
            elif len(texts) > 1 and "several" not in form.CARRIES:
                raise UserError(
                    f"Format {to!r} holds one caption an image, but {entry.item.path!r} has "
                    f"{len(texts)}; the others would be lost. Nothing was written. Choose "
                    "another format, or --first."
                )
            counts["images"] += 1
            counts["captions"] += len(entry.item.captions)
            counts.update(name for name in _uses(entry.item))
            spool.write(json.dumps(entry).encode() + b"\n")
        if not counts["images"]:
            raise UserError(f"{source!r} holds no image that can be read; nothing was written.")
        uses = frozenset(name for name in ("several", *DEFAULTS) if counts[name])
        folder = output or _own_folder(source)
        written = Written(folder, not output, copy, overwrite, fetcher, uses, form.INSIDE)
        for written.looking in (True, False):
            form.write(_read(spool), written)
            written.refuse()
    lost = {name: counts[name] for name in DEFAULTS if counts[name] and name not in form.CARRIES}
    return Converted(
        folder=folder,
        images=counts["images"],
        captions=counts["captions"],
        lost=lost,
        rejected=counts["rejected"],
        first=tuple(rejected),
    )


def _uses(item: Item) -> Iterator[str]:
    if len(item.captions) > 1:
        yield "several"
    for name, default in DEFAULTS.items():
        if getattr(item, name) != default:
            yield name


def _read(spool: IO[bytes]) -> Iterator[Entry]:
    spool.seek(0)
    for line in spool:
        fields, name = json.loads(line)
        item = Item(*fields)
        yield Entry(item._replace(captions=tuple(item.captions)), name)


def _own_folder(source: str) -> str:
    file = absolute(source)
    return file if look(file).kind == "folder" else parent(file)


def _entries(
    source: str, which: str, fetcher: Fetcher, rejected: list[Rejected], counts: Counter[str]
) -> Iterator[Entry]:
    """Yield the images of a source or dataset with their captions read and their names chosen."""
    seen = Seen()
    for item in _items(source, which):
        try:
            if isinstance(item, Rejected):
                raise BadImage(item.reason)
            captions = item.captions
            if item.caption_file:
                text = caption_text(fetcher.read(item.caption_file))
                captions = (text,) if text else ()
            name = _name(item, fetcher)
        except (BadImage, OSError) as error:
            counts["rejected"] += 1
            if len(rejected) < SHOWN:
                rejected.append(Rejected(path=item.path, reason=str(error)))
            continue
        stem, ending, number = *name.rsplit(".", 1), 1
        while not seen.add(shown(name)):
            number += 1
            name = f"{stem}-{number}.{ending}"
        kept = item._replace(captions=tuple(captions), caption_file="", stamp="")
        yield Entry(kept, name)


def _name(item: Item, fetcher: Fetcher) -> str:
    """Return the relative path an image would be copied to, with the ending of an image."""
    path = named(item.path).partition("://")[2] or named(item.path)
    name = "/".join(part for part in path.split("/") if part not in ("", ".", ".."))
    if is_image(name):
        return name
    return f"{name}.{kinds.own(fetcher.read(item.location)).lower() or 'png'}"


def _items(source: str, which: str) -> Iterator[Item | Rejected]:
    config = _config(source)
    if config is None and storage.exists(storage.join(source, schema.MANIFEST)):
        config = source
    if config is None:
        yield from sources.items(SubsetConfig(source=source))
        return
    manifest = open_snapshot(config, which)
    rules = DataConfig.model_validate(manifest.settings).captions
    with tables.database() as sql:
        sql.register("rows", rows_table(config, manifest))
        for batch in sql.sql(_IMAGES).to_arrow_reader(1024):
            for row in batch.to_pylist():
                yield _of_row(row, rules)


def _of_row(row: dict[str, Any], rules: CaptionConfig) -> Item:
    """Return the item of a dataset's image; its captions are those it is trained with."""
    texts = unvaried(row.pop("captions"), rules)
    return Item(**row, captions=tuple(text for text in texts if text))


def _config(source: str) -> str | None:
    """Return the dataset that a config of raytrain names; None for any other source."""
    if not source.endswith(".toml") or "://" in source or look(absolute(source)).kind != "file":
        return None
    from raytrain.config.file import load

    try:
        with open(source, "rb") as file:
            theirs = "datasets" in tomllib.load(file)
    except ValueError:
        theirs = False  # load says what is wrong
    return None if theirs else load(source, ()).dataset
