"""The control image of a prompt: a file that the config or the prompt names,
or the one stored with a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageOps

from raytrain import storage
from raytrain.config import Config
from raytrain.data.image.image import BadImage, decode_any, on_background
from raytrain.data.loading.read import Dataset
from raytrain.errors import UserError
from raytrain.sampling.prompt_file import Wish

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")


def assign(wishes: Sequence[Wish], controls: Sequence[str]) -> list[Wish]:
    """Give `sample.controls`, files or one folder of them, in order to the prompts that have none
    of their own.

    Raises UserError unless there is one for each.
    """
    one_folder = len(controls) == 1 and not controls[0].lower().endswith(SUFFIXES)
    files = _listed(controls[0]) if one_folder else list(controls)
    without = sum(not wish.control for wish in wishes)
    if len(files) != without:
        raise UserError(
            f"sample.controls must have one control image for each prompt, got {len(files)} for "
            f"{without} prompts; which belongs to which is not known. Give as many, in the order "
            "of the prompts."
        )
    left = iter(files)
    return [wish if wish.control else replace(wish, control=next(left)) for wish in wishes]


def image(
    wish: Wish, config: Config, dataset: Dataset | None, size: tuple[int, int]
) -> Image.Image:
    """Return a prompt's control image, RGB, scaled and cut at its center to `size`
    (width, height)."""
    if wish.control:
        found = _file(wish, config)
    elif wish.row and dataset is not None:
        found = _stored(dataset, *wish.row)
    else:
        raise UserError(
            f'method.name = "{config.method.name}" draws after a control image, but {wish.where} '
            "has none; nothing was drawn. Give sample.controls, '--cn' in the prompt file, or no "
            "prompts: then held-out captions are drawn with their own control images."
        )
    if found.size == size:
        return found
    return ImageOps.fit(found, size, Image.Resampling.LANCZOS)


def _file(wish: Wish, config: Config) -> Image.Image:
    try:
        content = storage.read_bytes(wish.control)
        return on_background(decode_any(content, config.data.max_pixels), "black")
    except (OSError, BadImage) as error:
        raise UserError(
            f"The control image {wish.control!r} of {wish.where} cannot be read ({error}); "
            "nothing was drawn. Give another file."
        ) from error


def _stored(dataset: Dataset, split: str, bucket: str, number: int) -> Image.Image:
    entry = np.searchsorted(dataset.index(bucket, split).entries, [number])
    rows = dataset.rows(bucket, entry, split, columns=("control",))
    return Image.fromarray(rows.columns["control"][0].transpose(1, 2, 0).copy())


def _listed(folder: str) -> list[str]:
    files = [name for name in storage.names(folder) if name.lower().endswith(SUFFIXES)]
    if not files:
        raise UserError(
            f"sample.controls = {folder!r} is no image and no folder with images; nothing was "
            "drawn. Give files, one a prompt, or one folder of them."
        )
    return [storage.join(folder, name) for name in files]
