"""Keys of SimpleTuner's data backends (multidatabackend.json).

Source: documentation/DATALOADER.md of bghira/SimpleTuner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    fixed,
    flag,
    listed,
    none,
    number,
    same,
    side,
    whole,
)

_CONTROLS = {"canny": "canny", "depth": "depth", "pose": "pose"}
"""Conditioning that it draws -> data.controls.kind."""


def kind(asked: Asked, number_: int) -> str:
    """Return what a backend holds: image, conditioning, text_embeds ..."""
    return str(asked.given.get(f"backend[{number_}].dataset_type") or "image")


def place(asked: Asked) -> int | None:
    """Return the number of our subset of the key's backend, None where it is none."""
    if kind(asked, asked.index) != "image":
        return None
    return sum(kind(asked, each) == "image" for each in range(asked.index))


def _images(rule: Rule) -> Rule:
    """Return a rule that holds for backends of images."""

    def apply(value: Any, asked: Asked) -> Said:
        found = kind(asked, asked.index)
        if found in ("text_embeds", "image_embeds"):
            return Said(note="raytrain stores what it encodes in the dataset's folder")
        if found == "conditioning":
            return Said(note="the source of control images or masks of another backend")
        return rule(value, asked) if found == "image" else Said(missing=f"data of {found}")

    return apply


def _subset(key: str, convert: Any) -> Rule:
    return lambda value, asked: Said({f"data.subsets[{place(asked)}].{key}": convert(value)})


def _source(value: Any, asked: Asked) -> Said:
    return _subset("source", str)(value, asked)


def _type(value: Any, asked: Asked) -> Said:
    if value == "aws":
        bucket, prefix = (
            asked.of(f"{asked.beside}{key}") or ""
            for key in ("aws_bucket_name", "aws_data_prefix")
        )
        return _source(f"s3://{bucket}/{prefix}".rstrip("/"), asked)
    if value == "local":
        return Said(note="a folder")
    return Said(missing=f"data of type {value}; download it and name its folder as the source")


def _hub(value: Any, asked: Asked) -> Said:
    return Said(
        {f"data.subsets[{place(asked)}].source": str(value)},
        missing="data sets of the hub by name; download it and name its folder as the source",
    )


def _captions(value: Any, asked: Asked) -> Said:
    if value == "textfile":
        whole_file = flag(asked.of(f"{asked.beside}disable_multiline_split") or False)
        return Said({"data.captions.lines": "joined" if whole_file else "each"})
    if value == "instanceprompt":
        return Said(note="instance_prompt is the caption of every image")
    return Said(missing=f"captions of the kind {value}")


def _prompt(value: Any, asked: Asked) -> Said:
    alone = asked.of(f"{asked.beside}caption_strategy") == "instanceprompt"
    if not (alone or flag(asked.of(f"{asked.beside}prepend_instance_prompt") or False)):
        return Said(note="no effect there: neither instanceprompt nor prepend_instance_prompt")
    found = _subset("prefix", str)(value, asked)
    note = (
        "the caption of every image; caption files beside images would follow it" if alone else ""
    )
    return Said(found.settings, note=note)


def area(value: Any, asked: Asked) -> Said:
    """Return the settings of a resolution, a backend's or the trainer's."""
    unit = str(
        asked.of(f"{asked.beside}resolution_type") or asked.of("resolution_type") or "pixel_area"
    )
    square = asked.of(f"{asked.beside}crop_aspect") == "square" and flag(
        asked.of(f"{asked.beside}crop") or False
    )
    if unit == "area":
        found = round((number(value) * 1e6) ** 0.5 / 64) * 64
    else:
        found = side(value)[0]
    if square:
        return Said(fixed(found, found))
    missing = "" if unit in ("area", "pixel_area") else "a shorter side; written is an area"
    return Said({"data.buckets.resolution": found}, missing=missing)


def _crop(value: Any, asked: Asked) -> Said:
    if value in ("random", "center"):
        note = "data.augment.crops says how many cuts are stored" if value == "random" else ""
        return Said({"data.buckets.crop": value}, note=note)
    return Said(missing=f'cuts at the {value}; data.buckets.crop = "salience" looks at a mask')


def _shuffle(value: Any, asked: Asked) -> Said:
    name, beside = asked.key.rpartition(".")[2], asked.beside
    if not flag(asked.of(f"{beside}enable") or False):
        return Said(note="off")
    if name == "position_start":
        return Said({"data.captions.keep_tags": whole(value)})
    if name == "split_on":
        found = {"comma": ",", "space": " ", "period": "."}.get(str(value))
        return Said(
            {"data.captions.separator": found} if found else {},
            missing="" if found else str(value),
        )
    if name in ("enable", "count"):
        return Said({"data.captions.variants": 1 + whole(asked.of(f"{beside}count") or 1)})
    if name == "include_original":
        return Said(missing="" if flag(value) else "shuffled captions alone")
    return Said(note="the order depends on the image and `seed`")


def _controls(value: Any, asked: Asked) -> Said:
    names = listed(value) or [""]
    at = [n for n in range(1000) if asked.given.get(f"backend[{n}].id") == names[0]]
    folder = asked.given.get(f"backend[{at[0]}].instance_data_dir") if at else None
    if folder is None or len(names) > 1:
        return Said(missing=f"the conditioning data {', '.join(names)}")
    what = (
        "masks"
        if asked.given.get(f"backend[{at[0]}].conditioning_type") in ("mask", "segmentation")
        else "controls"
    )
    return Said(
        {f"data.subsets[{place(asked)}].{what}": str(folder), f"data.{what}.kind": "folder"}
    )


def _drawn(value: Any, asked: Asked) -> Said:
    found = _CONTROLS.get(str(value))
    return Said(
        {"data.controls.kind": found} if found else {},
        missing="" if found else f"control images by {value}",
    )


def _ratio(value: Any, asked: Asked) -> Said:
    ratio = number(value)
    if ratio <= 0:
        raise ValueError(f"{value!r} is no ratio of sides")
    return Said({"data.quality.max_ratio": max(ratio, 1 / ratio)})


def _smallest(value: Any, asked: Asked) -> Said:
    if not number(value):
        return Said(note="no image is too small")
    unit = asked.of(f"{asked.beside}resolution_type") or asked.of("resolution_type")
    least = round((number(value) * 1e6) ** 0.5) if unit == "area" else whole(value)
    return Said({"data.quality.min_side": least}, note="of the shorter side")


_STORED = same("raytrain stores what it encodes in the dataset's folder")
_KEYS: Mapping[str, Rule] = {
    "id": same("a name for other keys"),
    "type": _type,
    "dataset_type": lambda value, asked: (
        Said(note="images") if value == "image" else _images(same(""))(value, asked)
    ),
    "disabled": none("a backend that is left out; take it out"),
    "default": _STORED,
    "instance_data_dir": _source,
    "dataset_name": _hub,
    "metadata_backend": same("captions and sizes are found by themselves"),
    **dict.fromkeys(("aws_bucket_name", "aws_data_prefix"), same("in the source")),
    **dict.fromkeys(
        ("aws_region_name", "aws_endpoint_url", "aws_access_key_id", "aws_secret_access_key"),
        none("credentials and places of S3; the AWS environment has them"),
    ),
    "resolution": area,
    "resolution_type": same("of resolution"),
    "crop": same("images are cut to their bucket"),
    "crop_style": _crop,
    "crop_aspect": lambda value, asked: (
        Said(note="in resolution")
        if value in ("square", "preserve", "closest")
        else Said(missing=f"cuts to {value} shapes")
    ),
    "crop_aspect_buckets": none("a list of shapes; data.buckets.sizes is one of sizes"),
    "minimum_image_size": _smallest,
    "maximum_image_size": same("large images are made smaller at once"),
    "target_downsample_size": same("large images are made smaller at once"),
    "max_upscale_threshold": none(
        "a limit of enlarging; data.buckets.upscale = false enlarges none"
    ),
    "minimum_aspect_ratio": _ratio,
    "maximum_aspect_ratio": _ratio,
    "caption_strategy": _captions,
    "instance_prompt": _prompt,
    "prepend_instance_prompt": same("of instance_prompt"),
    "only_instance_prompt": none("captions that are not read; remove the files"),
    "disable_multiline_split": same("of caption_strategy = textfile"),
    "caption_shuffle.*": _shuffle,
    "caption_filter_list": none(
        "words taken out by patterns; data.captions.drop_tags takes tags out"
    ),
    # there 0 shows every image once
    "repeats": _subset("repeats", lambda value: whole(value) + 1),
    "probability": none(
        "images drawn less often; repeats is how often each is", off=(*OFF, 1, 1.0)
    ),
    "is_regularisation_data": _subset("regularization", flag),
    "is_regularization_data": _subset("regularization", flag),
    "train_batch_size": none("a batch of its own; train.global_batch is one"),
    "max_num_samples": none("only the first images; give a smaller source"),
    **dict.fromkeys(
        ("start_epoch", "start_step", "end_epoch", "end_step"),
        none("images of a part of the run", off=(*OFF, 1)),
    ),
    "ignore_epochs": none("images that do not count for an epoch"),
    "conditioning_data": _controls,
    "conditioning_type": same("of conditioning data"),
    "conditioning.type": _drawn,
    "conditioning[].type": _drawn,
    **dict.fromkeys(
        ("conditioning.conditioning_type", "conditioning[].conditioning_type"),
        same("of conditioning"),
    ),
    **dict.fromkeys(
        ("conditioning.*", "conditioning[].*"), none("an option of drawn control images")
    ),
    "delete_unwanted_images": none("deleting files of the source; raytrain never does"),
    "delete_problematic_images": none("deleting files of the source; raytrain never does"),
    **dict.fromkeys(
        (
            "cache_dir",
            "cache_dir_vae",
            "text_embeds",
            "image_embeds",
            "vae_cache_clear_each_epoch",
            "vae_cache_ondemand",
            "vae_cache_disable",
            "skip_file_discovery",
            "preserve_data_backend_cache",
            "hash_filenames",
            "write_batch_size",
            "text_encoder_batch_size",
            "text_cache_ondemand",
            "text_cache_disable",
            "metadata_update_interval",
        ),
        _STORED,
    ),
}
_ALWAYS = ("id", "dataset_type")
RULES: Mapping[str, Rule] = {
    f"backend[].{key}": rule if key in _ALWAYS else _images(rule) for key, rule in _KEYS.items()
}
