"""The tables of `[data]` that say how an image becomes the pixels of its rows, masks and control
images among them.

Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raytrain import plugins
from raytrain.table import Interval, Size, Table


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
    """Longer side / shorter side at most; rules `area` and `sd_trainer` alone,
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
    nearest: Literal["auto", "log", "difference"] = "auto"
    """Which size is closest to an image: by the logarithm of width / height, which treats portrait
    and landscape alike, or by the plain difference; `auto`: as the rule's own source does."""
    crop: Literal["center", "random", "salience"] = "center"
    """Where a resized image is cut: salience is the center of mass of its mask."""

    resample: Literal["lanczos", "bicubic", "area"] = "lanczos"
    """Filter of the resize; `area` is kohya's: means over areas where both sides shrink, Lanczos
    elsewhere. Control images are always resized by Lanczos."""

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


class SuperResolutionConfig(Table):
    """`[data.super_resolution]`: a model that enlarges small images before they are resized."""

    path: str = ""
    """Folder or hub id of a Swin2SR, such as caidas/swin2SR-realworld-sr-x4-64-bsrgan-psnr; empty:
    they are resized alone."""
    below: float = Field(0.75, gt=0, le=1)
    """Images that are narrower than this share of what they are resized to count as small."""


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
    """Versions in which the image is smaller, on what the outpainter makes of its surroundings."""
    outpainter: str = ""
    """A file of `raytrain/data/outpainters` or a dotted path; empty: the image's own reflection,
    blurred."""
    outpainter_options: dict[str, Any] = Field({})
    """Its own settings, the fields of its `Options`."""
    faces: int = Field(0, ge=0)
    """Versions cut around the largest face, where one is found (sd-scripts' face crop)."""
    face_range: Interval = (2.0, 4.0)
    """Shorter side of such a cut, in sizes of the face."""
    face_options: dict[str, Any] = Field({})
    """How faces are found: the options of `data.masks.kind = "face"`."""
    up_to: int = Field(0, ge=0)
    """Where there are fewer images, each gets further versions, a part of the image with its
    colors changed, until images x versions reach this number (edenartlab/sd-lora-trainer: 40,
    with `flip` but for faces)."""
    hue: Interval = (1 / 256, 4 / 256)
    brightness: Interval = (0.9, 1.1)
    contrast: Interval = (0.9, 1.25)
    saturation: Interval = (0.9, 1.2)
    zoom: Interval = (0.85, 0.95)
    outpaint: Interval = (0.6, 0.9)
    blur: float = Field(0.5, ge=0, le=1)
    """Probability of a blur of one pixel's radius in a color version."""

    @model_validator(mode="after")
    def _plugins_exist(self) -> AugmentConfig:
        if self.outpainter:
            plugins.check("data.outpainters", self.outpainter)
            plugins.check_options(
                "data.outpainters",
                self.outpainter,
                self.outpainter_options,
                "data.augment.outpainter_options",
            )
        for key, given, needed in (
            ("outpainter", self.outpainter, "outpaints"),
            ("outpainter_options", self.outpainter_options, "outpainter"),
            ("face_options", self.face_options, "faces"),
        ):
            if given and not getattr(self, needed):
                raise ValueError(f"augment.{key} has no effect without augment.{needed}; set it")
        if self.faces:
            plugins.check_options(
                "data.masks", "face", self.face_options, "data.augment.face_options"
            )
        if not 0 < self.face_range[0] <= self.face_range[1]:
            raise ValueError(f"face_range must be two ascending numbers, got {self.face_range}")
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
