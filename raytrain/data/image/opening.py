"""Open what a line of a table points at: the image, and as far as they are asked for its alpha,
mask and control files."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from PIL import Image

from raytrain.config.data import DataConfig
from raytrain.data.image import image
from raytrain.data.image.image import BadImage
from raytrain.data.image.ready import is_ready
from raytrain.data.pipeline.scan import fetcher

Entry = TypeVar("Entry")
Result = TypeVar("Result")


class Passing(BadImage):
    """A fault that may be gone the next time, such as a server that does not answer."""


class Opened(NamedTuple):
    """One image as viewed, and its layers; of a layer's file that cannot be used what is wrong,
    for `sound` to raise."""

    image: Image.Image
    alpha: Image.Image | None
    mask: Image.Image | BadImage | None
    control: Image.Image | BadImage | None


def sound(layer: Image.Image | BadImage | None) -> Image.Image | None:
    """Return a layer; raises the BadImage that stands for it.

    Only what is made from the layer suffers from its fault.
    """
    if isinstance(layer, BadImage):
        raise layer
    return layer


def opened(
    line: Mapping[str, Any], data: DataConfig, *, alpha: bool, mask: bool, control: bool
) -> Opened | BadImage:
    """Read and decode an image and its layers, or say why not;
    the bytes must be those that were scanned."""
    if is_ready(line["location"]):
        return BadImage("its latents come ready from a cache, so there is no image to look at")
    try:
        content = read_bytes(line, "location", line["id"], data)
        if alpha:
            shown, transparency = image.decode_layers(content, data.max_pixels, data.background)
        else:
            shown, transparency = image.decode(content, data.max_pixels, data.background), None
        layers = [
            _layer(line, name, data) if wanted else None
            for name, wanted in (("mask", mask), ("control", control))
        ]
        size = image.capped(shown.size, data.max_side)
        if size != shown.size:
            shown = shown.resize(size, Image.Resampling.LANCZOS)
            transparency = transparency and transparency.resize(size, Image.Resampling.LANCZOS)
        return Opened(shown, transparency, *layers)
    except BadImage as error:
        return error
    except OSError as error:
        return Passing(f"cannot be read: {error}")


def ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Entry], Result],
    entries: Iterable[Entry],
    depth: int,
) -> Iterator[Result]:
    """Like map, but at most `depth` results are waiting at any time."""
    pending: deque[Future[Result]] = deque()
    for entry in entries:
        pending.append(pool.submit(function, entry))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _layer(line: Mapping[str, Any], name: str, data: DataConfig) -> Image.Image | BadImage | None:
    if not line[name]:
        return None
    try:
        return image.decode_any(read_bytes(line, name, line[f"{name}_id"], data), data.max_pixels)
    except BadImage as error:
        return type(error)(f"its {name} file: {error}")
    except OSError as error:
        return Passing(f"its {name} file cannot be read: {error}")


def read_bytes(line: Mapping[str, Any], name: str, identity: bytes, data: DataConfig) -> bytes:
    """Read the file that a line names; raises `Passing` where it is not the one scanned."""
    content = fetcher(data.fetch).read(line[name])
    if hashlib.sha256(content).digest() != identity:
        raise Passing("changed while it was being prepared; run the same command again")
    return content
