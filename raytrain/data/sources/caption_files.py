"""Images with one file of all captions next to them, as several trainers write it.

data.json                       [{"image": "a.png", "text": "a cat"}, ...], also with
                                "conditioning_image"
captions.json, image_captions.json   {"a.png": "a cat"}; a list is several captions
captions.csv                    image_path, caption, and perhaps mask_path
prompt.json                     {"source": control, "target": image, "prompt": caption} a line

The source is the folder, or a JSON file of either form. Paths count from the file's folder and may
be absolute. Images of the folder that are not named are taken too, with the text file next to
them; masks and control images that are named are not.
"""

from __future__ import annotations

from collections.abc import Iterator

from raytrain.config.data import SubsetConfig
from raytrain.data.files.location import absolute, base_name, look, parent, shown
from raytrain.data.item import Item, Rejected
from raytrain.data.sources._shared.records import Records, described
from raytrain.data.sources._shared.rows import rows
from raytrain.data.sources._shared.tree import top

NAMES = ("data.json", "captions.json", "image_captions.json", "captions.csv", "prompt.json")
COLUMNS = True


def recognizes(source: str) -> bool:
    """Tell whether the source is a folder with such a file, or a JSON file."""
    names = top(source)
    if names is not None:
        return any(name in NAMES for name in names[0])
    return (
        base_name(absolute(source)).lower().endswith(".json")
        and look(absolute(source)).kind == "file"
    )


def reads(name: str) -> bool:
    """Tell whether a file of the folder is such a list."""
    return name in NAMES


def items(subset: SubsetConfig) -> Iterator[Item | Rejected]:
    """Yield the images that the file names, then the folder's others."""
    file, column = absolute(subset.source), subset.caption_column
    if look(file).kind == "file":
        title = shown(base_name(file))
        return Records(parent(file), title, inside=False, caption_column=column).items(
            rows(file, title)
        )
    skip = [absolute(folder) for folder in (subset.masks, subset.controls) if folder]
    return described(file, reads, skip, inside=False, caption_column=column)
