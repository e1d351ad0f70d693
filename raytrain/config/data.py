"""The `[data]` table and its sub-tables: which images, and how they become a dataset.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raytrain import plugins
from raytrain.config.captions import CaptionConfig as CaptionConfig
from raytrain.paths import same
from raytrain.table import Interval, Size, Table, check_color


class SubsetConfig(Table):
    """`[[data.subsets]]`: one of several sources that are prepared together."""

    source: str
    format: str = "auto"
    """A file of `raytrain/data/sources`; `auto` looks at the source."""
    repeats: int = Field(1, ge=1)
    """How often an epoch shows each image."""
    weight: float = Field(1.0, ge=0)
    """Factor on each image's loss; for a regularization subset this is the prior loss weight."""
    regularization: bool = False
    """Images of the class in general: no trigger word is put before their captions."""
    prefix: str = ""
    suffix: str = ""
    masks: str = ""
    """Folder with a loss mask for each image, of the same relative stem; white counts,
    black does not."""
    controls: str = ""
    """Folder with a control image for each image, of the same relative stem."""
    caption_column: str = ""
    """The column (or JSON field) of the source's lists that holds the captions; default: the usual
    names, such as text, caption and prompt."""

    @model_validator(mode="after")
    def _format_exists(self) -> SubsetConfig:
        if self.format != "auto":
            plugins.check("data.sources", self.format)
        return self


class FetchConfig(Table):
    """`[data.fetch]`: limits of reading single files, above all over HTTP."""

    timeout: float = Field(20.0, gt=0)
    """Seconds without an answer."""
    retries: int = Field(3, ge=0)
    max_bytes: int = Field(256 * 2**20, ge=1)
    """Larger files are rejected."""
    trust_addresses: bool = False
    """Assume that a web address, once read, always holds the same bytes;
    otherwise every preparation reads it again."""


class BucketConfig(Table):
    """`[data.buckets]`: the sizes images are resized and cropped to."""

    rule: str = "area"
    """A file of `raytrain/data/buckets`."""
    resolution: int = Field(512, ge=16)
    """Side of the square bucket in pixels; a bucket's area is about its square."""
    resolutions: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Several resolutions: every image gives one row for each that it need not be enlarged for,
    at least the smallest."""
    step: int = Field(64, ge=8)
    max_ratio: float = Field(2.0, ge=1.0)
    """Longer side / shorter side at most; rule `area` alone,
    the others have limits of their own."""
    min_side: int | None = Field(None, ge=16)
    max_side: int | None = Field(None, ge=16)
    """Shortest and longest side of a bucket; default: the rule's own."""
    upscale: bool = True
    """False: an image smaller than its bucket is not enlarged (rule `kohya`: its own size, cut to
    the step)."""
    sizes: Annotated[tuple[Size, ...], Field(strict=False)] = ()
    """Explicit (width, height) list; replaces the rule's sizes,
    not its way of choosing. Not together with `resolutions`."""
    crop: Literal["center", "random", "salience"] = "center"
    """Where a resized image is cut: salience is the center of mass of its mask."""

    @model_validator(mode="after")
    def _possible(self) -> BucketConfig:
        plugins.check("data.buckets", self.rule)
        squares = [(side, side) for side in self.resolutions or (self.resolution,)]
        for width, height in self.sizes or squares:
            if width % self.step or height % self.step:
                raise ValueError(
                    f"bucket sizes must be multiples of step={self.step}, got {width}x{height}; "
                    "the VAE could not encode it; change step or the size"
                )
        return self


class MaskConfig(Table):
    """`[data.masks]`: loss masks, and what `crop = "salience"` looks at."""

    kind: str = "none"
    """`none`, or a file of `raytrain/data/masks`."""
    path: str = ""
    """Folder or hub id of the model's weights, where the kind has one."""
    prompt: str = ""
    train: bool = True
    """Store the masks as a column that weights the loss; false: use them for cropping alone."""
    options: dict[str, Any] = Field({})

    @property
    def weigh(self) -> bool:
        """Whether masks are stored and weigh the loss."""
        return self.kind != "none" and self.train

    @model_validator(mode="after")
    def _kind_exists(self) -> MaskConfig:
        if self.kind != "none":
            plugins.check("data.masks", self.kind)
            plugins.check_options("data.masks", self.kind, self.options, "data.masks.options")
        return self


class ControlConfig(Table):
    """`[data.controls]`: control images for a ControlNet."""

    kind: str = "none"
    """`none`, or a file of `raytrain/data/controls`."""
    path: str = ""
    options: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _kind_exists(self) -> ControlConfig:
        if self.kind != "none":
            plugins.check("data.controls", self.kind)
            plugins.check_options(
                "data.controls", self.kind, self.options, "data.controls.options"
            )
        return self


class ScoreConfig(Table):
    """`[[data.quality.scores]]`: one score of every image, and the range that is kept."""

    name: str
    kind: str
    """A file of `raytrain/data/scores`."""
    path: str = ""
    min: float | None = None
    """Images with a lower score are left out."""
    max: float | None = None
    """Images with a higher score are left out."""
    options: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _kind_exists(self) -> ScoreConfig:
        plugins.check("data.scores", self.kind)
        plugins.check_options(
            "data.scores", self.kind, self.options, f"data.quality.scores.{self.name}.options"
        )
        return self


class QualityConfig(Table):
    """`[data.quality]`: which images are good enough. Each filter lists what it leaves out."""

    min_side: int = Field(0, ge=0)
    """Images with a shorter side below this many pixels are left out."""
    max_ratio: float | None = Field(None, ge=1)
    """Images whose longer side is more than this many times the shorter are left out."""
    near_duplicates: int | None = Field(None, ge=0, le=16)
    """Largest number of differing bits of 64 between the perceptual hashes of two images that
    count as the same."""
    scores: Annotated[tuple[ScoreConfig, ...], Field(strict=False)] = ()


class AugmentConfig(Table):
    """`[data.augment]`: further versions of each image, encoded and stored;
    the batch sampler picks one for each occurrence."""

    flip: bool = False
    """Each version mirrored too; half of the occurrences see the mirrored one."""
    crops: int = Field(1, ge=1)
    """Different cuts of each image; above 1 needs crop = "random"."""
    colors: int = Field(0, ge=0)
    """Versions with hue, brightness, contrast and saturation changed and, by chance, blurred."""
    zooms: int = Field(0, ge=0)
    """Versions of a part of the image, 85 to 95 % of each side."""
    outpaints: int = Field(0, ge=0)
    """Versions in which the image is smaller on a blurred extension of itself."""
    hue: Interval = (1 / 256, 4 / 256)
    brightness: Interval = (0.9, 1.1)
    contrast: Interval = (0.9, 1.25)
    saturation: Interval = (0.9, 1.2)
    zoom: Interval = (0.85, 0.95)
    outpaint: Interval = (0.6, 0.9)
    blur: float = Field(0.5, ge=0, le=1)
    """Probability of a blur of one pixel's radius in a color version."""


class EncodeConfig(Table):
    """`[data.encode]`: the pool of encoding actors and the shards they fill."""

    workers: int = Field(1, ge=1)
    """Actors at least."""
    max_workers: int | None = Field(None, ge=1)
    """Actors at most, as the cluster has room; default: `workers`."""
    batch: int = Field(8, ge=1)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    shard_mb: int = Field(256, ge=1)
    """Megabytes of one parquet file, about."""
    shard_rows: int = Field(2048, ge=1)
    """Rows of one parquet file at most; a killed worker loses a quarter of one."""
    group_rows: int = Field(64, ge=1)
    """Rows of one parquet row group: the unit a reader fetches."""
    publish_minutes: float | None = Field(None, gt=0)
    """Publish a snapshot of what is ready every so often, so that training can start; default:
    only when all is done."""

    @model_validator(mode="after")
    def _ordered(self) -> EncodeConfig:
        if self.max_workers is not None and self.max_workers < self.workers:
            raise ValueError(
                f"max_workers must be at least workers, got {self.max_workers} and {self.workers}"
            )
        return self


class DataConfig(Table):
    """`[data]`: where the images are and how they become a dataset."""

    source: str = ""
    """Folder, archive, table or URI; for several, use [[data.subsets]]."""
    format: str = "auto"
    """A file of `raytrain/data/sources`; `auto` looks at the source."""
    caption_column: str = ""
    """The column (or JSON field) of the source's lists that holds the captions; default: the usual
    names, such as text, caption and prompt."""
    subsets: Annotated[tuple[SubsetConfig, ...], Field(strict=False)] = ()
    dataset: str = ""
    """Prepared dataset's folder; empty means `<output>/dataset`."""
    snapshot: str = "latest"
    """Which version of the dataset to train on; a run keeps the one it started with."""
    partial: bool = False
    """Allow training on a snapshot published while preparation was still going on."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the images kept out of training, chosen by content hash."""
    repeats: int = Field(1, ge=1)
    """How often an epoch of training shows every image, on top of what its subset says."""
    max_pixels: int = Field(200_000_000, ge=1)
    """Larger images are rejected before they are decoded (decompression bombs)."""
    background: str = "white"
    """Color under transparent pixels: a name or #rrggbb."""
    allow_rejected: bool = False
    """Exit with 0 although broken images were left out; otherwise preparation ends with exit code
    3."""
    fetch: FetchConfig = FetchConfig()
    quality: QualityConfig = QualityConfig()
    buckets: BucketConfig = BucketConfig()
    augment: AugmentConfig = AugmentConfig()
    captions: CaptionConfig = CaptionConfig()
    masks: MaskConfig = MaskConfig()
    controls: ControlConfig = ControlConfig()
    encode: EncodeConfig = EncodeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.source and self.subsets:
            raise ValueError(
                "give data.source or data.subsets, not both; put the source into a subset of its "
                "own"
            )
        if self.buckets.crop == "salience" and self.masks.kind == "none":
            raise ValueError(
                'data.buckets.crop = "salience" needs a mask to look at; set data.masks.kind'
            )
        if self.augment.crops > 1 and self.buckets.crop != "random":
            raise ValueError(
                f'data.augment.crops = {self.augment.crops} needs data.buckets.crop = "random"'
            )
        if self.captions.quality_tags and self.captions.quality_score not in {
            "site",
            *(s.name for s in self.quality.scores),
        }:
            raise ValueError(
                f"data.captions.quality_tags reads the score {self.captions.quality_score!r}, "
                "which [[data.quality.scores]] does not define"
            )
        for key in ("format", "caption_column"):
            if self.subsets and getattr(self, key) != DataConfig.model_fields[key].default:
                raise ValueError(
                    f"data.{key} is of data.source, but there are data.subsets, each with its own "
                    f"{key}; put it there"
                )
        if self.format != "auto":
            plugins.check("data.sources", self.format)
        if any(score.name == "site" for score in self.quality.scores):
            raise ValueError(
                'a score of [[data.quality.scores]] cannot be named "site", which '
                "data.captions.quality_score reads from the source's records; give it another name"
            )
        check_color(self.background)
        for subset in self.subsets:
            for what in ("masks", "controls"):
                if (folder := getattr(subset, what)) and same(folder, subset.source):
                    raise ValueError(
                        f"the subset {subset.source!r} names its own folder of images as its "
                        f"{what}: every image would be its own. Give another folder as {what}"
                    )
        return self

    def unread(self) -> tuple[str, ...]:
        """Return a sentence for each folder of masks or controls that a subset names and nothing
        reads."""
        found = []
        for what, kind in (("masks", self.masks.kind), ("controls", self.controls.kind)):
            reads = kind != "none" and plugins.load(f"data.{what}", kind).READS_FILE
            found += [
                f'the {what} {folder!r} of a subset have no effect: data.{what}.kind = "{kind}" '
                f'reads none; set it to "folder", or leave them out'
                for subset in self.subsets
                if (folder := getattr(subset, what)) and not reads
            ]
        return tuple(found)

    def all_subsets(self) -> tuple[SubsetConfig, ...]:
        """Return the sources to prepare: `subsets`, or `source` alone."""
        own = SubsetConfig(
            source=self.source, format=self.format, caption_column=self.caption_column
        )
        return self.subsets or (own,)
