"""The dataset config of kohya's sd-scripts: its keys, and where raytrain has what they mean.

What says where images are, and what becomes of their captions, counts for the subset it stands in.
What raytrain sets once for all images is compared with the config and told where it differs
(`unlike`); no key is without effect and unsaid. Source: sd-scripts' library/config_util.py and
docs/config_README-en.md.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError

from raytrain.config import Config
from raytrain.data.files import stream
from raytrain.errors import UserError, unknown
from raytrain.table import Interval, Size, Table

VERSIONS = 8
"""Stored versions of a caption that sd-scripts would shuffle anew each time, where
data.captions.variants sets no other number."""
NAMES = {
    "keep_tokens": "keep_tags",
    "keep_tokens_separator": "keep_separator",
    "secondary_separator": "secondary_separator",
    "caption_separator": "separator",
    "shuffle_caption": "shuffle_tags",
    "caption_tag_dropout_rate": "tag_dropout",
    "enable_wildcard": "wildcards",
    "token_warmup_min": "warmup_min",
}
"""Keys that are the subset's own, and the fields of [data.captions] that they are."""


class Subset(Table):
    """A `[[datasets.subsets]]` with what its dataset and [general] say for it."""

    image_dir: str = ""
    num_repeats: int = Field(1, ge=1)
    caption_extension: str = ""
    class_tokens: str = ""
    is_reg: bool = False
    metadata_file: str = ""
    caption_prefix: str = ""
    caption_suffix: str = ""
    conditioning_data_dir: str = ""

    shuffle_caption: bool = False
    keep_tokens: int = Field(0, ge=0)
    keep_tokens_separator: str = ""
    secondary_separator: str = ""
    caption_separator: str = ","
    enable_wildcard: bool = False
    caption_tag_dropout_rate: float = Field(0.0, ge=0, lt=1)

    batch_size: int = Field(1, ge=1)
    resolution: int | Size = 512
    enable_bucket: bool = False
    min_bucket_reso: int = 256
    max_bucket_reso: int = 1024
    bucket_reso_steps: int = 64
    bucket_no_upscale: bool = False
    flip_aug: bool = False
    color_aug: bool = False
    random_crop: bool = False
    face_crop_aug_range: Interval | None = None
    caption_dropout_rate: float = Field(0.0, ge=0, le=1)
    caption_dropout_every_n_epochs: int = Field(0, ge=0)
    token_warmup_min: int = Field(1, ge=0)
    token_warmup_step: float = Field(0.0, ge=0)
    validation_split: float = Field(0.0, ge=0, le=1)
    validation_seed: int = 0
    alpha_mask: bool = False
    network_multiplier: float = 1.0
    cache_info: bool = False
    custom_attributes: dict[str, Any] = Field({})
    resize_interpolation: str = ""
    skip_image_resolution: int | Size = 0

    def captions(self) -> str:
        """Return what it says of captions, as `Item.caption_settings`."""
        said = self.model_fields_set
        own = {name: getattr(self, key) for key, name in NAMES.items() if key in said}
        own["lines"] = "each" if self.enable_wildcard else "first"
        if said & {"caption_prefix", "caption_suffix"}:
            own["affixes"] = "shuffled"
        if self.versions:
            own |= {"variants": VERSIONS, "shuffle_tags": self.shuffle_caption}
        elif "shuffle_caption" in said:
            own["variants"] = 1
        return json.dumps(own, sort_keys=True)

    @property
    def versions(self) -> bool:
        """Whether its captions differ from one occurrence to the next."""
        return self.shuffle_caption or self.enable_wildcard or self.caption_tag_dropout_rate > 0


def _resolution(own: Subset, config: Config) -> dict[str, Any]:
    buckets, [(width, height)] = config.data.buckets, _one_size(own)
    if buckets.sizes == _one_size(own):
        return {}
    if width == height:
        return {} if width in buckets.resolutions else {"data.buckets.resolution": width}
    if not own.enable_bucket:
        return {"data.buckets.sizes": ((width, height),)}
    side = round(math.sqrt(width * height) / buckets.step) * buckets.step
    return {"data.buckets.resolution": side}


def _enabled(own: Subset, config: Config) -> dict[str, Any]:
    one = _one_size(own)
    if own.enable_bucket:
        return {"data.buckets.sizes": ()} if config.data.buckets.sizes == one else {}
    return {} if config.data.buckets.sizes == one else {"data.buckets.sizes": one}


def _of_buckets(key: str, said: Callable[[Subset], Any]) -> Callable[..., dict[str, Any]]:
    """Return what a key of buckets asks for; without buckets it has no effect there either."""
    return lambda own, _: {f"data.buckets.{key}": said(own)} if own.enable_bucket else {}


def _one_size(own: Subset) -> tuple[Size]:
    """Return the only size of images without buckets."""
    asked = own.resolution
    return (asked if isinstance(asked, tuple) else (asked, asked),)


def _cropped(own: Subset, config: Config) -> dict[str, Any]:
    if own.random_crop:
        return {"data.buckets.crop": "random"}
    return {"data.buckets.crop": "center"} if config.data.buckets.crop == "random" else {}


def _warmup(own: Subset, config: Config) -> dict[str, Any]:
    asked = own.token_warmup_step
    steps = int(asked) if asked >= 1 or not asked else f"{100 * asked:g} %"
    stages = {"data.captions.warmup_stages": VERSIONS} if asked else {}
    return {"objective.caption_warmup": steps} | (
        {} if config.data.captions.warmup_stages else stages
    )


Counterpart = Callable[[Subset, Config], dict[str, Any]]
COUNTERPARTS: dict[str, Counterpart] = {
    "batch_size": lambda own, config: {
        "train.global_batch": own.batch_size * config.train.workers
    },
    "resolution": _resolution,
    "enable_bucket": _enabled,
    "min_bucket_reso": _of_buckets("min_side", lambda own: own.min_bucket_reso),
    "max_bucket_reso": _of_buckets("max_side", lambda own: own.max_bucket_reso),
    "bucket_reso_steps": _of_buckets("step", lambda own: own.bucket_reso_steps),
    "bucket_no_upscale": _of_buckets("upscale", lambda own: not own.bucket_no_upscale),
    "flip_aug": lambda own, config: {"data.augment.flip": own.flip_aug},
    "color_aug": lambda own, config: (
        {} if own.color_aug and config.data.augment.colors
        else {"data.augment.colors": int(own.color_aug)}
    ),
    "random_crop": _cropped,
    "face_crop_aug_range": lambda own, config: {
        "data.masks.kind": "face", "data.buckets.crop": "salience"
    },
    "caption_dropout_rate": lambda own, config: {
        "objective.caption_dropout": own.caption_dropout_rate
    },
    "caption_dropout_every_n_epochs": lambda own, config: {
        "objective.caption_dropout_epochs": own.caption_dropout_every_n_epochs
    },
    "token_warmup_step": _warmup,
    "validation_split": lambda own, config: {"data.held_out": own.validation_split},
    "alpha_mask": lambda own, config: {"data.masks.kind": "alpha"} if own.alpha_mask else {},
}  # fmt: skip
"""Key -> the keys of this config that mean the same for all images, with the values it asks
for."""
NOWHERE = {
    "network_multiplier": "no adapter is scaled for some of the images",
    "cache_info": "what was seen of a file is always kept",
    "validation_seed": "which images are held out follows from their content",
    "custom_attributes": "nothing reads them",
    "resize_interpolation": "data.buckets.resample says how images are resized",
    "skip_image_resolution": "data.quality.min_side leaves small images out",
}
"""Keys without a counterpart, and why."""


def read(file: str) -> list[Subset]:
    """Return all subsets of a config; UserError where it cannot be read, or has a key or a value
    that sd-scripts would not take."""
    try:
        with stream.open_binary(file) as opened:
            config = tomllib.loads(opened.read().decode())
    except (OSError, ValueError) as error:
        raise UserError(
            f"The dataset config {file!r} must be readable TOML: {error}. Nothing of it was used."
        ) from error
    if not isinstance(config.get("datasets"), list):
        raise UserError(
            f"{file!r} must have [[datasets]] with [[datasets.subsets]], as sd-scripts reads it. "
            "Nothing was used."
        )
    _check_keys(file, config, {"general", "datasets"})
    found = []
    for dataset in config["datasets"]:
        for subset in dataset.get("subsets", []):
            outer = {key: entry for key, entry in dataset.items() if key != "subsets"}
            merged = config.get("general", {}) | outer | subset
            _check_keys(file, merged, set(Subset.model_fields))
            found.append(_subset(file, merged))
    return found


def _subset(file: str, settings: dict[str, Any]) -> Subset:
    try:
        subset = Subset(**settings)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"{file!r}: the setting {fault['loc'][0]!r} must be right: {fault['msg']}, got "
            f"{fault['input']!r}. Nothing of the file was used; correct it."
        ) from error
    if not subset.image_dir and not subset.metadata_file:
        raise UserError(
            f"{file!r}: each of [[datasets.subsets]] needs image_dir or metadata_file, got "
            f"{settings}. Its images cannot be found; add one of them or remove the subset."
        )
    return subset


def _check_keys(file: str, settings: Mapping[str, Any], valid: set[str]) -> None:
    for key in settings:
        if key not in valid:
            raise UserError(f"{file!r}: {unknown('the setting', key, valid)}")


def unlike(title: str, subsets: list[Subset], config: Config) -> Iterator[str]:
    """Yield a sentence for each key that this config answers otherwise, or not at all."""
    for key, counterpart in COUNTERPARTS.items():
        saying = [own for own in subsets if key in own.model_fields_set]
        for ours in dict.fromkeys(name for own in saying for name in counterpart(own, config)):
            asked = [(own, counterpart(own, config).get(ours)) for own in saying]
            wants = list(dict.fromkeys(want for _, want in asked if want is not None))
            have = _value(config, ours)
            if wants not in ([], [have]):
                said = " and ".join(
                    dict.fromkeys(_toml(getattr(own, key)) for own, want in asked if want in wants)
                )
                remedy = (
                    f"set it to {_toml(wants[0])}"
                    if len(wants) == 1
                    else "it is one for all images: set it, or prepare the subsets apart"
                )
                yield f"{title}: {key} = {said}, but {ours} = {_toml(have)} counts; {remedy}"
    for key, why in NOWHERE.items():
        values = [getattr(own, key) for own in subsets if key in own.model_fields_set]
        telling = [each for each in values if each != Subset.model_fields[key].default]
        if telling:
            yield f"{title}: {key} = {_toml(telling[0])} has no effect: {why}"
    if config.data.captions.variants == 1 and any(own.versions for own in subsets):
        yield (
            f"{title}: {VERSIONS} versions of each caption are stored where sd-scripts changes it "
            "anew each time; data.captions.variants sets another number"
        )


def _value(config: Config, key: str) -> Any:
    found: Any = config
    for name in key.split("."):
        found = getattr(found, name)
    return found


def _toml(value: Any) -> str:
    return '"unset"' if value is None else json.dumps(value)
