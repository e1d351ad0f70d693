"""`[data.captions]`: the captioner, and what becomes of every caption.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raytrain import plugins
from raytrain.table import Names, Table


class CaptionerConfig(Table):
    """A captioner and what it is asked."""

    captioner: str = "none"
    """`none` leaves captions empty; any other value is a file of `raytrain/data/captioners`."""
    path: str = ""
    """Folder or hub id of the captioner's weights; not all captioners need one."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    prompt: str | None = None
    """What a captioner is asked; default: its own."""
    max_new_tokens: int = Field(40, ge=1)
    num_beams: int = Field(3, ge=1)
    options: dict[str, Any] = Field({})
    """The captioner's own settings, the fields of its `Options`."""

    def check(self, table: str) -> None:
        """Raise ValueError unless the captioner of this table can be asked so."""
        if self.captioner == "none":
            return
        plugins.check("data.captioners", self.captioner)
        plugins.check_options("data.captioners", self.captioner, self.options, f"{table}.options")
        if not self.path and plugins.load("data.captioners", self.captioner).NEEDS_PATH:
            raise ValueError(
                f"captioner {self.captioner!r} needs `path`, the folder or hub id of its weights"
            )


class FallbackConfig(CaptionerConfig):
    """`[data.captions.fallback]`: the captioner of large sets, where another costs money."""

    above: int = Field(ge=1)
    """Sets of more images than this are captioned by it instead."""


class CaptionConfig(CaptionerConfig):
    """`[data.captions]`: the captioner for images that bring no caption,
    and what becomes of every caption."""

    fallback: FallbackConfig | None = None
    """Another captioner for large sets (above 50 images in edenartlab/sd-lora-trainer, whose first
    one is a paid endpoint)."""
    replace: bool = False
    """Caption every image, also those that bring a caption."""
    cropped: bool = False
    """Captioners see each image as it is cut for its largest bucket, not whole."""
    trigger: str = ""
    """Stands for `placeholder` in every caption; where there is none it is put before,
    with a comma and a space."""
    placeholder: str = "TOK"
    """A whole word of a caption, never a part of one."""
    lowercase: bool = False
    """Every caption in lower case but for the placeholder, before anything is added to it."""
    strip: str = ""
    """Characters taken from the end of every caption, before anything is added to it: "."."""
    prefix: str = ""
    suffix: str = ""
    affixes: Literal["space", "raw", "shuffled"] = "space"
    """How prefix and suffix are joined: by a space; as they are written; or by a space, and their
    tags are then shuffled and left out like the caption's own (as sd-scripts does)."""
    lines: Literal["joined", "first", "each"] = "joined"
    """What becomes of a caption of several lines: one line, its first line, or a caption each."""
    wildcards: bool = False
    """Of `{red|green} hat` each stored version has one word; `{{` and `}}` are braces."""
    separator: str = ","
    """Between tags."""
    keep_tags: int = Field(0, ge=0)
    """First tags that are never shuffled or left out."""
    keep_separator: str = ""
    """Where a caption has this mark, such as "|||", what is before it is kept instead of
    `keep_tags`, and what is after a second one too."""
    secondary_separator: str = ""
    """A mark inside a tag, such as ";;;", that becomes the separator after shuffling."""
    drop_tags: Names = ()
    """Tags removed from every caption."""
    variants: int = Field(1, ge=1)
    """Stored versions of a caption; those after the first have their tags shuffled and dropped.
    Each occurrence picks one."""
    shuffle_tags: bool = True
    """False: the further versions keep the order of their tags."""
    tag_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the other tags left out of each further version."""
    warmup_stages: int = Field(0, ge=0)
    """Further stored versions that have only the first of their tags, growing from `warmup_min` in
    so many stages, which objective.caption_warmup begins a run with."""
    warmup_min: int = Field(1, ge=0)
    """Tags after the kept ones in the first stage."""
    dropped: Literal["empty", "trigger"] = "empty"
    """What objective.caption_dropout leaves of a caption: nothing, or the trigger word, stored as
    one more version (of a regularization image nothing)."""
    quality_tags: dict[str, float] = Field({})
    """Tag -> minimum of `quality_score`; an image gets the tag with the highest minimum it
    reaches."""
    quality_score: str = "aesthetic"
    """The score of [[data.quality.scores]] that `quality_tags` reads, or "site": the column
    `score` of the source's records."""
    rating_words: dict[str, str] = Field({})
    """Value of the records' column `rating` -> the tag an image gets; "*" stands for all
    others."""
    meta_tags: Names = ()
    """Tags of the records' column `tag_string_meta` that an image gets, such as "highres"."""
    rewriter: str = ""
    """A file of `raytrain/data/rewriters` or a dotted path: changes captions,
    a language model for instance."""
    rewriter_options: dict[str, Any] = Field({})
    rewriter_images: Annotated[tuple[int, int], Field(strict=False)] | None = None
    """The rewriter is asked only of sets with so many images, both ends included ([3, 50] in
    edenartlab/sd-lora-trainer); the captions of others stay as they are, and a line says so."""
    rewriter_trim: int | None = Field(None, ge=1)
    """Where there are more images than `rewriter_images` allows, but less than 1.33 times as many,
    only the first so many stay (49 in edenartlab/sd-lora-trainer)."""

    @model_validator(mode="after")
    def _trigger_is_known(self) -> CaptionConfig:
        if self.dropped == "trigger" and not self.trigger:
            raise ValueError(
                'dropped = "trigger" leaves the trigger word of a caption, but `trigger` is '
                'empty; set it, or dropped = "empty"'
            )
        return self

    @model_validator(mode="after")
    def _plugins_exist(self) -> CaptionConfig:
        if self.cropped and self.captioner == "none":
            raise ValueError("cropped says what a captioner sees, but captioner is none; set one")
        self.check("data.captions")
        if self.fallback:
            if self.captioner == "none":
                raise ValueError("fallback follows a captioner, but captioner is none; set one")
            self.fallback.check("data.captions.fallback")
        self._few()
        if self.rewriter:
            plugins.check("data.rewriters", self.rewriter)
            plugins.check_options(
                "data.rewriters",
                self.rewriter,
                self.rewriter_options,
                "data.captions.rewriter_options",
            )
        return self

    def _few(self) -> None:
        """Check the rules of few images."""
        if self.rewriter_images is None:
            if self.rewriter_trim is not None:
                raise ValueError(
                    "rewriter_trim needs rewriter_images, beyond which images are cut"
                )
            return
        least, most = self.rewriter_images
        if not (self.rewriter and 0 <= least <= most):
            raise ValueError(
                f"rewriter_images = [{least}, {most}] must be two ascending numbers of images "
                f"that a rewriter is asked of, and rewriter is {self.rewriter!r}"
            )
        if self.rewriter_trim is not None and not least <= self.rewriter_trim <= most:
            raise ValueError(
                f"rewriter_trim = {self.rewriter_trim} must lie within rewriter_images = "
                f"[{least}, {most}], so that the rewriter is asked of what stays"
            )

    def of(self, images: int) -> CaptionConfig:
        """Return these settings with the captioner that a set of so many images has."""
        if self.fallback is None or images <= self.fallback.above:
            return self
        return self.model_copy(update=dict(self.fallback))

    def trims(self, images: int) -> bool:
        """Whether only the first `rewriter_trim` of so many images stay."""
        if self.rewriter_images is None or self.rewriter_trim is None:
            return False
        return self.rewriter_images[1] < images < 1.33 * self.rewriter_images[1]

    def rewrites(self, images: int) -> bool:
        """Whether the rewriter is asked of a set of so many images."""
        least, most = self.rewriter_images or (0, images)
        return bool(self.rewriter) and least <= images <= most
