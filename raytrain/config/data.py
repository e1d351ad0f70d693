"""The `[data]` table and its sub-tables: which images, and how they become a dataset.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raytrain import plugins
from raytrain.config.captions import CaptionConfig as CaptionConfig
from raytrain.config.image import AugmentConfig as AugmentConfig
from raytrain.config.image import BucketConfig as BucketConfig
from raytrain.config.image import ControlConfig as ControlConfig
from raytrain.config.image import MaskConfig as MaskConfig
from raytrain.config.image import SuperResolutionConfig as SuperResolutionConfig
from raytrain.paths import same
from raytrain.table import Table, check_color

LATEST, GROWING = "latest", "growing"
"""Values of `data.snapshot` that are no number."""


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
    trigger: str = ""
    """Trigger word of this subset's concept; default: that of [data.captions]."""
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
        if self.trigger and self.regularization:
            raise ValueError(
                f"trigger = {self.trigger!r} has no effect on a regularization subset, whose "
                "captions get none; remove one of both"
            )
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
    min_area: int = Field(0, ge=0)
    """Images of fewer pixels are left out: 262144 is 512 x 512, 1048576 is 1024 x 1024."""
    max_ratio: float | None = Field(None, ge=1)
    """Images whose longer side is more than this many times the shorter are left out."""
    near_duplicates: int | None = Field(None, ge=0, le=16)
    """Largest number of differing bits of 64 between the perceptual hashes of two images that
    count as the same."""
    scores: Annotated[tuple[ScoreConfig, ...], Field(strict=False)] = ()


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
    5 with `data.snapshot = "growing"`, else only when all is done."""

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
    """Folder, archive, table or URI, or the web address of a zip or tar (which may end in
    `#sha256=...`); for several, use [[data.subsets]]."""
    format: str = "auto"
    """A file of `raytrain/data/sources`; `auto` looks at the source."""
    caption_column: str = ""
    """The column (or JSON field) of the source's lists that holds the captions; default: the usual
    names, such as text, caption and prompt."""
    subsets: Annotated[tuple[SubsetConfig, ...], Field(strict=False)] = ()
    dataset: str = ""
    """Prepared dataset's folder; empty means `<output>/dataset`."""
    snapshot: str = LATEST
    """Which version of the dataset to train on: a number, or `latest`, and a run keeps the one it
    started with; `growing` trains while `raytrain prepare` still encodes and goes on with the
    newest at every epoch's end (`data.encode.publish_minutes`)."""
    partial: bool = False
    """Allow training on a snapshot published while preparation was still going on."""
    cache: bool = True
    """Encode images and captions once and store what comes out; false: store how an image is cut
    and a caption's token ids, and encode them in every training step."""
    held_out: float = Field(0.1, ge=0, lt=1)
    """Share of the images kept out of training, chosen by content hash."""
    repeats: int = Field(1, ge=1)
    """How often an epoch of training shows every image, on top of what its subset says."""
    balance: Literal["none", "lcm"] = "none"
    """`lcm`: repeats are raised to the least common multiple, until an epoch shows as many images
    of each subset (edenartlab/sd-lora-trainer's merge of concepts)."""
    max_pixels: int = Field(200_000_000, ge=1)
    """Larger images are rejected before they are decoded (decompression bombs)."""
    max_side: int | None = Field(None, ge=16)
    """Larger images are shrunk to this side before anything looks at them, as if their files were
    so (2048 in edenartlab/sd-lora-trainer); default: they stay as they are."""
    background: str = "white"
    """Color under transparent pixels: a name or #rrggbb."""
    allow_rejected: bool = False
    """Exit with 0 although broken images were left out; otherwise preparation ends with exit code
    3."""
    fetch: FetchConfig = FetchConfig()
    quality: QualityConfig = QualityConfig()
    buckets: BucketConfig = BucketConfig()
    super_resolution: SuperResolutionConfig = SuperResolutionConfig()
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
        if self.subsets and not any(subset.weight for subset in self.subsets):
            raise ValueError(
                "subsets: weight = 0 of every one, so nothing would be learned; give one a weight "
                "above 0"
            )
        if self.super_resolution.path and not self.buckets.upscale:
            raise ValueError(
                "data.super_resolution enlarges small images, which data.buckets.upscale = false "
                "keeps from being enlarged; remove one of both"
            )
        if self.balance != "none" and len(self.subsets) < 2:
            raise ValueError(
                f'balance = "{self.balance}" needs several [[data.subsets]] to balance, got '
                f"{len(self.subsets)}; remove it"
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

    def triggers(self) -> tuple[str, ...]:
        """Return the trigger words of all concepts."""
        found = [subset.trigger or self.captions.trigger for subset in self.all_subsets()]
        return tuple(dict.fromkeys(word for word in found if word))

    def all_subsets(self) -> tuple[SubsetConfig, ...]:
        """Return the sources to prepare: `subsets`, or `source` alone."""
        own = SubsetConfig(
            source=self.source, format=self.format, caption_column=self.caption_column
        )
        return self.subsets or (own,)
