"""Parquet files with the images in them, as Hugging Face `datasets` writes them, or the Arrow
files of its `save_to_disk`: a file, or a folder of such.

The image is the column that the file's Hugging Face features call an Image, else the first struct
with `bytes`, else a binary column; a struct without bytes names a file next to it by its
`path`. The caption is in text, caption or prompt (text or a list of texts). `mask` and
`conditioning_image` (or control) may hold further images. A parquet file with a column of web
addresses or paths instead is read as a table. Row groups are read one at a time, and of those only
the captions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raytrain.config.data import SubsetConfig
from raytrain.data.files import groups, stream
from raytrain.data.files.location import (
    Cell,
    absolute,
    base_name,
    child,
    look,
    parent,
    shown,
    write,
)
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.records import (
    CAPTIONS,
    CONTROLS,
    FILES,
    MASKS,
    Records,
    captions,
    check_column,
    field,
    unread,
)
from raytrain.data.sources._shared.rows import Row, rows
from raytrain.data.sources._shared.tree import below, is_image, top, walk

ENDINGS = (".parquet", ".arrow")
DESCRIPTIONS = ("dataset_info.json", "state.json", "dataset_dict.json")
"""What `save_to_disk` writes beside the images."""
LARGEST_GROUP = 4 * 2**30
"""Bytes of one row group's images: a reader holds two of them in memory."""
COLUMNS = True


def recognizes(source: str) -> bool:
    """Tell whether the source is a parquet file, or a folder that holds (in itself or one below)
    such and no images."""
    names = top(source)
    if names is None:
        return (
            base_name(absolute(source)).endswith(ENDINGS) and look(absolute(source)).kind == "file"
        )
    files = [*names[0], *below(source, names[1])]
    parquet = [name for name in files if name.endswith(ENDINGS) and name != "metadata.parquet"]
    return bool(parquet) and not any(map(is_image, files))


def reads(name: str) -> bool:
    """Tell whether a file of the folder is a parquet or Arrow file, or says what is in them."""
    return name.endswith(ENDINGS) or name in DESCRIPTIONS


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the rows of the file, or of each file of the folder."""
    file = absolute(subset.source)
    if look(file).kind != "folder":
        yield from _file(subset, file, shown(base_name(file)), "")
        return
    for folder in walk(file):
        if isinstance(folder, Rejected):
            yield folder
            continue
        for name in folder.files:
            if name.endswith(ENDINGS):
                yield from _file(
                    subset,
                    child(folder.file, name),
                    shown(folder.relative + name),
                    folder.relative,
                )


def _file(subset: SubsetConfig, file: str, title: str, prefix: str) -> Iterator[Item | Rejected]:
    try:
        with stream.open_binary(file) as opened:
            source = groups.opened(file, opened)
            schema = source.schema
            check_column(title, subset.caption_column, schema.names)
            image = _image_column(schema)
            if image is not None:
                yield from _groups(source, image, subset, file, title, prefix)
                return
    except (pa.ArrowInvalid, OSError) as error:
        yield Rejected(path=title, reason=f"no readable parquet or Arrow file: {error}")
        return
    if field(schema.names, FILES) is None:
        yield Rejected(
            path=title,
            reason=f"has no column of images; its columns are {', '.join(schema.names)}",
        )
    else:
        column = subset.caption_column
        records = Records(parent(file), title, inside=False, prefix=prefix, caption_column=column)
        yield from records.items(rows(file, title))


def _groups(
    source: groups.Groups, image: str, subset: SubsetConfig, file: str, title: str, prefix: str
) -> Iterator[Item | Rejected]:
    schema, stamp = source.schema, look(file).stamp
    wanted = (subset.caption_column,) if subset.caption_column else CAPTIONS
    caption = field(schema.names, wanted)
    columns = {name: _address(schema, name) for name in [image, *_layers(schema, image)] if name}
    path = (
        f"{image}.path"
        if columns[image] != image and schema.field(image).type.get_field_index("path") >= 0
        else ""
    )
    records, number = Records(parent(file), title, inside=True, prefix=prefix), 0
    mask, control = _layers(schema, image)
    yield from unread(title, set(schema.names) - {image, caption, mask, control})
    for group in range(source.number):
        empty, size = source.facts(group, columns[image])
        count = source.rows(group)
        if size > LARGEST_GROUP:
            yield Rejected(
                path=f"{title}/{number}",
                reason=(
                    f"row group {group} ({count} rows) holds {size} bytes of images, above "
                    f"{LARGEST_GROUP}; write the file with smaller row groups"
                ),
            )
            number += count
            continue
        table = source.read(group, [name for name in (caption, path) if name])
        for row in range(count):
            name = f"{title}/{number}"
            number += 1
            try:
                texts = captions(table[caption][row].as_py()) if caption else ()
            except ValueError as error:
                yield Rejected(path=name, reason=str(error))
                continue
            if empty and path:  # the whole group holds no bytes: its images are files
                record = {"path": table[image][row].as_py()["path"], "text": list(texts)}
                yield records.item([Row(f"row {number}", record)])
                continue
            layers = {n: write(file, Cell(group, row, columns[n])) for n in (mask, control) if n}
            yield Item(
                name,
                write(file, Cell(group, row, columns[image])),
                texts,
                mask=layers.get(mask, ""),
                control=layers.get(control, ""),
                stamp=f"{stamp} {number}",
            )


def _image_column(schema: pa.Schema) -> str | None:
    described: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = described.get("info", {}).get("features") or {}
    holding = [
        name
        for name in schema.names
        if _holds_bytes(schema.field(name).type) and name.lower() not in MASKS + CONTROLS
    ]
    named = [name for name in holding if (features.get(name) or {}).get("_type") == "Image"]
    structs = [name for name in holding if pa.types.is_struct(schema.field(name).type)]
    usual = field(holding, (*FILES, "bytes", "jpg", "png", "webp", "image", "image_bytes"))
    found = [*named, *structs, *([usual] if usual else []), *holding]
    return found[0] if found else None


def _layers(schema: pa.Schema, image: str) -> tuple[str, str]:
    holding = [
        name for name in schema.names if _holds_bytes(schema.field(name).type) and name != image
    ]
    return field(holding, MASKS) or "", field(holding, CONTROLS) or ""


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _address(schema: pa.Schema, name: str) -> str:
    return f"{name}.bytes" if pa.types.is_struct(schema.field(name).type) else name
