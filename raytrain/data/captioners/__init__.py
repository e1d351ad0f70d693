"""Captioners: one a file, the file's name is its name in `[data.captions] captioner`.

A captioner module offers
    Options                                        a Table, the keys of `[data.captions] options`;
                                                   it may be empty
    PROMPT: str | None                             what it is asked unless `prompt` says otherwise;
                                                   None for a captioner that describes without
                                                   being asked
    NEEDS_PATH: bool                               whether `[data.captions] path` must be set
    IGNORES: tuple[str, ...]                       optional: keys of `[data.captions]` that only
                                                   other captioners read
    version(config: CaptionConfig) -> str          changes whenever a caption may: name, weights,
                                                   prompt, settings, options. Loads no model. A
                                                   written caption is kept as long as it is the
                                                   same
    load(config: CaptionConfig, device: str = "") -> Captioner    "" is the accelerator where there
                                                                  is one, else the CPU
    tiny(folder: str, seed: int = 0) -> None       where a path is needed: writes one with tiny
                                                   random weights, offline
and a captioner
    caption(images: list[PIL.Image.Image]) -> list[str | BadImage]
        One line of text for each image, in order, or why this one alone cannot be captioned.
        What is not the fault of one image is raised, as UserError where the user can fix it.
"""

from __future__ import annotations

from typing import Protocol

from PIL import Image

from raytrain.data.image.image import BadImage


class Captioner(Protocol):
    """A loaded captioner."""

    def caption(self, images: list[Image.Image]) -> list[str | BadImage]:
        """Return a caption, or the reason why there is none, for each image in order."""
