"""What kohya's sd-scripts train on: a dataset config in TOML,
or a folder of folders named `N_name`.

`10_sks dog/` holds images to be shown 10 times an epoch, whose caption is `sks dog` where no text
file is next to them. A folder of regularization images of that form is a subset of its own, with
`regularization = true`. `auto` recognizes such a folder when it holds no image itself and at least
half of its folders are so named, but not when a number is like a year or an order (`2023_summer`,
`01_january`); `format = "folder"` reads it as any other. What else it holds is not read.

Of the TOML are read, in [general], [[datasets]] and [[datasets.subsets]] (the nearer counts):
image_dir (images directly in it; relative to the TOML), num_repeats, caption_extension (default:
.caption, then .txt), class_tokens, is_reg, metadata_file, caption_prefix, caption_suffix,
conditioning_data_dir. A metadata file is JSON, {path: {"caption", "tags"}}, or JSONL,
{"image_path", "caption", "tags"}; caption and tags are joined by a comma. What says how to train
or augment (`IGNORED`) is raytrain's own configuration and is not taken from there. Any other key
is an error. Source: sd-scripts' docs/config_README-en.md.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError

from raytrain.config.data import SubsetConfig
from raytrain.data.files import stream
from raytrain.data.files.location import absolute, base_name, child, look, named, parent, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.records import FILES, Records, value
from raytrain.data.sources._shared.rows import Row, rows
from raytrain.data.sources._shared.tree import (
    IMAGES,
    SIDECARS,
    Places,
    images,
    is_image,
    open_folder,
    top,
)
from raytrain.data.sources._shared.unused import Used, unused
from raytrain.errors import UserError, unknown
from raytrain.table import Table

FOLDER = re.compile(r"0*([1-9]\d{0,4})_(.+)", re.DOTALL)
DATE = re.compile(r"(0\d|19\d\d|20\d\d)_")
"""What the names of folders by year or in an order begin with."""
# fmt: off
IGNORED = frozenset((
    "batch_size", "bucket_no_upscale", "bucket_reso_steps", "enable_bucket", "max_bucket_reso",
    "min_bucket_reso", "resolution", "network_multiplier", "skip_image_resolution",
    "resize_interpolation", "color_aug", "face_crop_aug_range", "flip_aug", "random_crop",
    "keep_tokens", "shuffle_caption", "caption_separator", "caption_dropout_every_n_epochs",
    "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_min", "token_warmup_step",
    "cache_info", "validation_", "validation_seed",
))
# fmt: on


class Subset(Table):
    """What is read of a `[[datasets.subsets]]`."""

    image_dir: str = ""
    num_repeats: int = Field(1, ge=1)
    caption_extension: str = ""
    class_tokens: str = ""
    is_reg: bool = False
    metadata_file: str = ""
    caption_prefix: str = ""
    caption_suffix: str = ""
    conditioning_data_dir: str = ""


def recognizes(source: str) -> bool:
    """Tell whether the source is a TOML file, or a folder with nothing but folders `N_name` for
    images."""
    names = top(source)
    if names is None:
        return (
            base_name(absolute(source)).lower().endswith(".toml")
            and look(absolute(source)).kind == "file"
        )
    repeated = [name for name in names[1] if FOLDER.fullmatch(name)]
    return (
        bool(repeated)
        and len(repeated) * 2 >= len(names[1])
        and not any(map(DATE.match, repeated))
        and not any(map(is_image, names[0]))
    )


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the images of all subsets of the config, or of all folders `N_name`."""
    file = absolute(subset.source)
    if look(file).kind == "file":
        yield from _listed(list(_settings(file)), file)
        return
    for name in open_folder(file).folders:
        if match := FOLDER.fullmatch(name):
            settings = Subset(
                image_dir=name, num_repeats=int(match[1]), class_tokens=shown(match[2])
            )
            yield from _folder(settings, file)


def _listed(subsets: list[Subset], file: str) -> Iterator[Item | Rejected]:
    """Yield the images of a TOML's subsets, then the files of their folders that nothing uses."""
    used, base = Used(), parent(file)
    for settings in subsets:
        read = _metadata if settings.metadata_file else _folder
        for found in read(settings, base):
            used.note(file, found)
            yield found
    lists = {base_name(settings.metadata_file) for settings in subsets}
    for folder in dict.fromkeys(settings.image_dir for settings in subsets if settings.image_dir):
        prefix = f"{shown(folder).rstrip('/')}/"
        yield from unused(
            _place(base, folder), file, used, lists.__contains__, prefix=prefix, deep=False
        )


def _settings(file: str) -> Iterator[Subset]:
    try:
        with stream.open_binary(file) as opened:
            config = tomllib.loads(opened.read().decode())
    except (OSError, ValueError) as error:
        raise UserError(
            f"The dataset config {file!r} must be readable TOML: {error}. Nothing of it was used."
        ) from error
    if not isinstance(config.get("datasets"), list):
        raise UserError(
            f"{file!r} must have [[datasets]] with [[datasets.subsets]], as sd-scripts reads it. "
            "Nothing was used."
        )
    _check_keys(file, config, {"general", "datasets"})
    for dataset in config["datasets"]:
        for subset in dataset.get("subsets", []):
            outer = {key: entry for key, entry in dataset.items() if key != "subsets"}
            merged = config.get("general", {}) | outer | subset
            _check_keys(file, merged, set(Subset.model_fields) | IGNORED)
            yield _subset(
                file, {key: entry for key, entry in merged.items() if key not in IGNORED}
            )


def _subset(file: str, settings: dict[str, Any]) -> Subset:
    try:
        subset = Subset(**settings)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"{file!r}: the setting {fault['loc'][0]!r} must be right: {fault['msg']}, got "
            f"{fault['input']!r}. Nothing of the file was used; correct it."
        ) from error
    if not subset.image_dir and not subset.metadata_file:
        raise UserError(
            f"{file!r}: each of [[datasets.subsets]] needs image_dir or metadata_file, got "
            f"{settings}. Its images cannot be found; add one of them or remove the subset."
        )
    return subset


def _check_keys(file: str, settings: dict[str, Any], valid: set[str]) -> None:
    for key in settings:
        if key not in valid:
            raise UserError(f"{file!r}: {unknown('the setting', key, valid)}")


def _folder(settings: Subset, base: str) -> Iterator[Item | Rejected]:
    folder = _place(base, settings.image_dir)
    if look(folder).kind != "folder":
        raise UserError(
            f"image_dir must be a folder with images, but {settings.image_dir!r} (read as "
            f"{folder!r}) is none."
        )
    extensions = (
        (settings.caption_extension,) if settings.caption_extension else tuple(reversed(SIDECARS))
    )
    add = _Add(settings, base)
    for found in images(folder, sidecars=extensions, deep=False):
        path = f"{shown(settings.image_dir).rstrip('/')}/{found.path}"
        if isinstance(found, Rejected):
            yield found.model_copy(update={"path": path})
        else:
            texts = (
                (settings.class_tokens,)
                if settings.class_tokens and not found.caption_file
                else ()
            )
            yield add(found._replace(path=path, captions=texts))


def _metadata(settings: Subset, base: str) -> Iterator[Item | Rejected]:
    file = _place(base, settings.metadata_file)
    folder = _place(base, settings.image_dir) if settings.image_dir else parent(file)
    title, add, places = shown(settings.metadata_file), _Add(settings, base), Places()
    prefix = f"{settings.image_dir.rstrip('/')}/" if settings.image_dir else ""
    found = (
        row if isinstance(row, Rejected) else _row(row, folder, places)
        for row in rows(file, title)
    )
    for item in Records(folder, title, inside=False, prefix=prefix).items(found):
        yield item if isinstance(item, Rejected) else add(item)


def _row(row: Row, folder: str, places: Places) -> Row:
    """Join caption and tags; complete a name without extension, as older metadata has it,
    by the image of that stem."""
    file, texts = (
        value(row.record, FILES),
        [row.record.get(name) for name in ("caption", "text", "tags")],
    )
    if isinstance(file, str) and os.path.splitext(file)[1].lower() not in IMAGES:
        inner, _, stem = file.rpartition("/")
        name = places.name_of_stem(child(folder, inner) if inner else folder, stem)
        file = f"{inner}/{name}" if inner and name else name or file
    text = ", ".join(part for part in texts if isinstance(part, str) and part)
    return Row(row.where, {"path": file, "text": text or None})


def _place(base: str, path: str) -> str:
    return (
        absolute(path)
        if "://" in path or os.path.isabs(path)
        else child(base, os.path.normpath(path))
    )


class _Add:
    """Adds what a subset of the TOML says to its items."""

    def __init__(self, settings: Subset, base: str) -> None:
        self.settings, self.places = settings, Places()
        self.controls = (
            _place(base, settings.conditioning_data_dir) if settings.conditioning_data_dir else ""
        )

    def __call__(self, item: Item) -> Item:
        settings = self.settings
        stem = os.path.splitext(named(item.path).rpartition("/")[2])[0]
        control, stamp = (
            self.places.of_stem(self.controls, stem) if self.controls else (item.control, "")
        )
        return item._replace(
            repeats=settings.num_repeats,
            regularization=settings.is_reg,
            prefix=settings.caption_prefix,
            suffix=settings.caption_suffix,
            control=control,
            stamp=f"{item.stamp} {stamp}".rstrip(),
        )
