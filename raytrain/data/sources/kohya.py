"""What kohya's sd-scripts train on: a dataset config in TOML,
or a folder of folders named `N_name`.

`10_sks dog/` holds images to be shown 10 times an epoch, whose caption is `sks dog` where no text
file is next to them. A folder of regularization images of that form is a subset of its own, with
`regularization = true`. `auto` recognizes such a folder when it holds no image itself and at least
half of its folders are so named, but not when a number is like a year or an order (`2023_summer`,
`01_january`); `format = "folder"` reads it as any other. What else it holds is not read.

Of the TOML, in [general], [[datasets]] and [[datasets.subsets]] (the nearer counts), where images
are and what becomes of their captions is the subset's own: image_dir (images directly in it;
relative to the TOML), num_repeats, caption_extension (default: .caption, then .txt), class_tokens,
is_reg, metadata_file, caption_prefix, caption_suffix, shuffle_caption, keep_tokens and the like.
An image of conditioning_data_dir is both the control image and the mask, of which
`data.controls.kind` and `data.masks.kind` say what is read. A metadata file is JSON,
{path: {"caption", "tags"}}, or JSONL, {"image_path", "caption", "tags"}; caption and tags are
joined by a comma, on each line of the caption. Every other key is told where this config says
otherwise (`_shared/kohya_config.py`). Source: sd-scripts' docs/config_README-en.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from raytrain.config import Config
from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, child, look, named, parent, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared import kohya_config
from raytrain.data.sources._shared.kohya_config import Subset
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
from raytrain.errors import UserError

FOLDER = re.compile(r"0*([1-9]\d{0,4})_(.+)", re.DOTALL)
DATE = re.compile(r"(0\d|19\d\d|20\d\d)_")
"""What the names of folders by year or in an order begin with."""


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
        yield from _listed(subset, file)
        return
    for name in open_folder(file).folders:
        if match := FOLDER.fullmatch(name):
            settings = Subset(
                image_dir=name, num_repeats=int(match[1]), class_tokens=shown(match[2])
            )
            yield from _folder(_Add(settings, file, subset, captions=False))


def _listed(subset: SubsetConfig, file: str) -> Iterator[Item | Rejected]:
    """Yield the images of a TOML's subsets, then the files of their folders that nothing uses."""
    used, base = Used(), parent(file)
    found = kohya_config.read(file)
    for settings in found:
        add = _Add(settings, base, subset)
        for entry in (_metadata if settings.metadata_file else _folder)(add):
            used.note(file, entry)
            yield entry
    lists = {base_name(settings.metadata_file) for settings in found}
    for folder in dict.fromkeys(settings.image_dir for settings in found if settings.image_dir):
        prefix = f"{shown(folder).rstrip('/')}/"
        yield from unused(
            _place(base, folder), file, used, lists.__contains__, prefix=prefix, deep=False
        )


def notes(subset: SubsetConfig, config: Config) -> Iterator[str]:
    """Yield that folders' names are taken for repeats, or what the TOML asks for and this config
    answers otherwise; UserError where it cannot be told whether an image is a mask or a control
    image."""
    file, data = absolute(subset.source), config.data
    if look(file).kind != "file":
        if subset.format == "auto":
            yield (
                f"{subset.source} is read as kohya's folders: each N_name is shown N times an "
                'epoch, others are left out; data.format = "folder" reads it as any other'
            )
        return
    title, found = shown(base_name(file)), kohya_config.read(file)
    both = data.masks.kind == data.controls.kind == "folder"
    if any(own.conditioning_data_dir for own in found):
        if both and not (subset.masks or subset.controls):
            raise UserError(
                f"{title}: conditioning_data_dir must be a folder of masks or of control images, "
                'but both data.masks.kind and data.controls.kind are "folder" and read it; an '
                "image would be both. Name the other folder as the subset's `masks` or "
                "`controls`."
            )
        if not both and "folder" not in (data.masks.kind, data.controls.kind):
            yield (
                f"{title}: conditioning_data_dir has no effect: set data.masks.kind = "
                '"folder" for a masked loss, or data.controls.kind = "folder" for a ControlNet'
            )
    yield from kohya_config.unlike(title, found, config)


def _folder(add: _Add) -> Iterator[Item | Rejected]:
    settings, base = add.settings, add.base
    folder = _place(base, settings.image_dir)
    if look(folder).kind != "folder":
        raise UserError(
            f"image_dir must be a folder with images, but {settings.image_dir!r} (read as "
            f"{folder!r}) is none."
        )
    extensions = (
        (settings.caption_extension,) if settings.caption_extension else tuple(reversed(SIDECARS))
    )
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


def _metadata(add: _Add) -> Iterator[Item | Rejected]:
    settings, base = add.settings, add.base
    file = _place(base, settings.metadata_file)
    folder = _place(base, settings.image_dir) if settings.image_dir else parent(file)
    title, places = shown(settings.metadata_file), Places()
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
    caption, *rest = [part if isinstance(part, str) else "" for part in texts]
    each = [", ".join(filter(None, (line, *rest))) for line in caption.split("\n")]
    return Row(row.where, {"path": file, "text": "\n".join(each) or None})


def _place(base: str, path: str) -> str:
    return (
        absolute(path)
        if "://" in path or os.path.isabs(path)
        else child(base, os.path.normpath(path))
    )


class _Add:
    """Adds what a subset of the TOML says to its items."""

    def __init__(
        self, settings: Subset, base: str, subset: SubsetConfig, captions: bool = True
    ) -> None:
        self.settings, self.base, self.places = settings, base, Places()
        self.captions = settings.captions() if captions else ""
        folder = settings.conditioning_data_dir
        self.layers = _place(base, folder) if folder else ""
        self.named = bool(subset.masks), bool(subset.controls)

    def __call__(self, item: Item) -> Item:
        settings = self.settings
        stem = os.path.splitext(named(item.path).rpartition("/")[2])[0]
        layer, stamp = self.places.of_stem(self.layers, stem) if self.layers else ("", "")
        mask, control = ("" if named else layer for named in self.named)
        return item._replace(
            repeats=settings.num_repeats,
            regularization=settings.is_reg,
            prefix=settings.caption_prefix,
            suffix=settings.caption_suffix,
            caption_settings=self.captions,
            mask=item.mask or mask,
            control=item.control or control,
            stamp=f"{item.stamp} {stamp}".rstrip(),
        )
