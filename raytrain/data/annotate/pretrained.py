"""Models that look at images (masks, control images, scores): the hash of their weights,
and how they are loaded."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain import pretrained, storage
from raytrain.data.image.image import BadImage
from raytrain.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

LONGEST, SMALLEST = 32, 4
"""Longer side over shorter, and smallest side in pixels, of images shown to a model:
image processors scale the shorter side up to their own, and take three rows for three channels."""
_CONTENT = (".safetensors", ".json", ".txt", ".model", ".onnx", ".xml", ".task")


def weights_hash(path: str, setting: str, deep: bool = False) -> str:
    """Return the content hash of a model: all weight and settings files of its folder or hub id,
    and where `deep` of all folders in it; or of one file."""
    if not path:
        raise UserError(f"{setting} is empty; give the folder or hub id (owner/name) of a model.")
    if path.endswith(_CONTENT):
        if not storage.exists(path):
            raise UserError(f"{setting} = {path!r} does not exist. Correct the path.")
        files = [Path(storage.fetch(path))]
    else:
        listed = folder(path).rglob("*") if deep else folder(path).iterdir()
        files = sorted(file for file in listed if file.suffix in _CONTENT)
        if not files:
            raise UserError(
                f"{setting} = {path!r} holds no model: no file ends in {', '.join(_CONTENT)}. "
                "Correct the path."
            )
    return _hash(
        tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    )


def folder(path: str) -> Path:
    """Return a model's local folder: `path` itself, or the snapshot of a hub id."""
    return pretrained.resolve(path)


def device() -> torch.device:
    """Return the accelerator this process was given, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model(kind: Any, path: str, setting: str, unused: str = "") -> Any:
    """Load a transformers model class from safetensors, in evaluation mode and float32,
    on this process's device.

    Weights that the files lack would be random ones: UserError, except for names that match
    `unused`, a regular expression.
    """
    loaded, info = part(kind, path, setting, use_safetensors=True, output_loading_info=True)
    missing = sorted(
        name for name in info["missing_keys"] if not (unused and re.search(unused, name))
    )
    if missing:
        raise UserError(
            f"{setting} = {path!r} cannot be loaded as {type(loaded).__name__}: it lacks "
            f"{len(missing)} of its weights, for instance {missing[0]}. Give a folder or hub id "
            "of a model that was trained for this."
        )
    return loaded.float().eval().requires_grad_(False).to(device())


def image_processor(path: str, setting: str) -> Any:
    """Load a model's image processor: always the one on Pillow,
    so that results are the same everywhere."""
    from transformers import AutoImageProcessor

    return part(AutoImageProcessor, path, setting, backend="pil")


def check(image: Image.Image) -> None:
    """Raise BadImage where an image is too narrow to be shown to a model."""
    if _narrow(image):
        raise BadImage(
            f"{image.width}x{image.height} is too narrow for a model: the shorter side must have "
            f"{SMALLEST} pixels, and the longer one {LONGEST} times as many at most"
        )


def scores(
    images: list[Image.Image], model: Callable[[list[Image.Image]], list[float]]
) -> list[float]:
    """Return what a model makes of the images, NaN for those too narrow to be shown."""
    shown = [image for image in images if not _narrow(image)]
    found = iter(model(shown) if shown else [])
    return [math.nan if _narrow(image) else next(found) for image in images]


def _narrow(image: Image.Image) -> bool:
    shorter, longer = sorted(image.size)
    return shorter < SMALLEST or longer > LONGEST * shorter


def part(kind: Any, path: str, setting: str, **options: Any) -> Any:
    """Call `kind.from_pretrained`; what cannot be loaded is a UserError that names the setting."""
    if not path:
        raise UserError(
            f"{setting} is empty; give the folder or hub id (owner/name) of a {kind.__name__}."
        )
    try:
        return kind.from_pretrained(folder(path), local_files_only=True, **options)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{setting} = {path!r} cannot be loaded as {kind.__name__}: {reason} Give a folder or "
            "hub id that holds such a model in safetensors, with its settings."
        ) from error


@functools.lru_cache(64)
def _hash(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash files by name and content; size and time of change only say when to read them again."""
    digest = hashlib.sha256()
    for name, *_ in files:
        digest.update(f"{Path(name).name}\0".encode())
        with open(name, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
