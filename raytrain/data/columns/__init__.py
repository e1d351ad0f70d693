"""Columns: one kind of array that is stored of each row a file;
the file's name is its folder in the dataset.

    OF           "image" or "caption": what a version of the array is made from
    COMPANION    of an image column, the companion file it may be made from: "mask", "control" or
                 ""
    COLORS       of an image column, whether the array shows the image itself: it follows an
                 augmented version's change of colors, and tools may make some versions
    tools        of such a column, what makes some versions (super-resolution): its hash, by name
    MAKER        the part of the model that makes the array, a fact of `version`; empty where
                 settings alone decide
    version      all that the arrays depend on besides image and caption, by name; loads no model
    arrays       dtype and shape of an image column's arrays; those of a caption column follow from
                 its empty caption, and where it says them too, its bytes are known beforehand
    load         the encoder, with the parts of the model that it needs and no other

Training reads what its method asks for, and so that is what preparation stores. Every array has a
content address that begins with its column's version: a column more, or another version of one, is
all that is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from raytrain import plugins
from raytrain.config import Config
from raytrain.data.store.schema import Array

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from raytrain.data.buckets import Size
    from raytrain.data.image.opening import Opened
    from raytrain.data.image.transform import Transform
    from raytrain.families import Family

MASK, CONTROL = "mask", "control"
"""Columns that settings of [data] ask for, in addition to those of the method."""
LATENTS, TEXT, TRANSFORM, TOKENS = "latents", "text", "transform", "tokens"
MADE_FROM = {LATENTS: TRANSFORM, TEXT: TOKENS}
"""With `data.cache = false`: what is stored instead, from which the column is made when read."""


class ImageEncoder(Protocol):
    """Makes the arrays of an image column: threads call `layer` and `cut`, one image at a time,
    `encode` gets a batch."""

    needs: frozenset[str]
    """What it needs opened together with the image: "alpha", "mask", "control"."""

    def layer(self, image: Opened) -> Image.Image:
        """Return what is cut, of the image's size; BadImage where this image can have none."""

    def cut(self, layer: Image.Image, version: Transform, bucket: Size) -> np.ndarray:
        """Return the pixels of one version in a bucket (width, height); BadImage where it can have
        none."""

    def encode(self, cuts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Map n cuts of one bucket to the column's arrays, (n, ...) each."""


class CaptionEncoder(Protocol):
    """Makes the arrays of a caption column."""

    def encode(self, captions: Sequence[str]) -> dict[str, np.ndarray]:
        """Map n captions to the column's arrays, (n, ...) each."""

    def too_long(self, captions: Sequence[str]) -> list[bool]:
        """Tell for each caption whether its end is lost."""


class Kind(Protocol):
    """What a file in `raytrain/data/columns` offers; a caption column has no COMPANION,
    COLORS and `arrays`."""

    OF: Literal["image", "caption"]
    COMPANION: Literal["mask", "control", ""]
    COLORS: bool
    MAKER: str

    def version(self, config: Config, family: Family) -> Mapping[str, str]:
        """Return all that the arrays depend on, by name; UserError where the config has no such
        arrays."""

    def arrays(self, config: Config, family: Family) -> dict[str, Array]:
        """Return what is stored of an image, by the name that a batch has it under."""

    def tools(self, config: Config) -> Mapping[str, str]:
        """Return what makes only some versions, where COLORS."""

    def load(
        self, config: Config, family: Family, device: torch.device, dtype: torch.dtype
    ) -> Any:
        """Return an `ImageEncoder` or a `CaptionEncoder` on a device;
        UserError where it cannot be loaded."""


def load(name: str) -> Kind:
    """Return the column plug-in `name`."""
    module: Kind = plugins.load("data.columns", name)
    return module


def read(config: Config) -> tuple[str, ...]:
    """Return the stored columns that training reads, in order: those of the method or what they
    are made from, and masks where they weigh the loss."""
    from raytrain import families, methods

    own = methods.load(config.method).columns(families.load(config.model.family), config.method)
    if not config.data.cache:
        own = uncached(own)
    return tuple(sorted({*own, MASK} if config.data.masks.weigh else {*own}))


def uncached(names: Iterable[str]) -> tuple[str, ...]:
    """Return what is stored in place of columns that are made when they are read."""
    return tuple(dict.fromkeys(MADE_FROM.get(name, name) for name in names))


def filled(entries: Sequence[Any], size: int) -> list[Any]:
    """Repeat the last entry until a batch is full.

    Encoders compute other bits for a batch of another size; with one size an image's arrays do not
    depend on where a job began, and so not on what was killed when.
    """
    return [*entries, *[entries[-1]] * (size - len(entries))]


def stored(config: Config) -> tuple[str, ...]:
    """Return the columns that preparation stores, in order: those that training reads,
    and control images where made."""
    return tuple(
        sorted(
            {*read(config), CONTROL} if config.data.controls.kind != "none" else {*read(config)}
        )
    )
