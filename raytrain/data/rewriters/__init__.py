"""Rewriters change captions: one a file, the file's name is its name in `[data.captions]
rewriter`.

A rewriter module offers
    Options                                     a Table, the keys of `[data.captions]
                                                rewriter_options`
    version(config: CaptionConfig) -> str       changes whenever a rewritten caption may; loads
                                                nothing
    load(config: CaptionConfig) -> Rewriter
and perhaps
    at_once(config) -> int                      how many captions it puts into one question
    describer(config) -> Describer | None       what asks, once, for what the images have in common
                                                (`images`: whether it wants contact sheets;
                                                `version`; `describe(captions, sheets) -> words`),
                                                which becomes the option `concept`
and a rewriter
    rewrite(captions: list[str]) -> list[str | BadImage]
        One line for each caption, in order, or why this one cannot be rewritten. Many at once are
        quicker than one by one: give it the captions of many images. What is not the fault of
        one caption is raised, as UserError where the user can fix it.

It sees captions as they were found or written: trigger, prefix and the like come after it, and the
placeholder is a word as any other.
"""

from __future__ import annotations

from typing import Protocol

from raytrain.data.image.image import BadImage


class Rewriter(Protocol):
    """A loaded rewriter."""

    def rewrite(self, captions: list[str]) -> list[str | BadImage]:
        """Return a caption, or the reason why there is none, for each caption in order."""
