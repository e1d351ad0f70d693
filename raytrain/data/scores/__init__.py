"""Scores of images: one a file; the file's name is `kind` of `[[data.quality.scores]]`.

A score plug-in is a module with

    Options   a Table: the plug-in's own settings (`options` of the score)
    IGNORES   optional: keys of the score that only other kinds read
    version   ScoreConfig -> str, another one whenever scores may come out differently; loads no
              model
    load      ScoreConfig -> Scorer, which keeps its model and is called with batches of images

An image's score does not depend on the others of its batch. `min` and `max` of the config say
which scores are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from raytrain import plugins
from raytrain.table import Table

if TYPE_CHECKING:
    from PIL import Image

    from raytrain.config.data import ScoreConfig


class Scorer(Protocol):
    """Scores images, with whatever model it loaded."""

    def score(self, images: list[Image.Image]) -> list[float]:
        """Return one score an image (RGB, as viewed, any sizes);
        NaN where an image could not be scored."""


class Kind(Protocol):
    """What a file in `raytrain/data/scores` offers."""

    Options: type[Table]

    def version(self, config: ScoreConfig) -> str:
        """Return the hash over all that scores depend on besides the image."""

    def load(self, config: ScoreConfig) -> Scorer:
        """Return a scorer; UserError where its model cannot be loaded."""


def load(kind: str) -> Kind:
    """Return the score plug-in `kind`."""
    module: Kind = plugins.load("data.scores", kind)
    return module
