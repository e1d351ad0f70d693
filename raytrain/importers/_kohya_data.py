"""Data keys of sd-scripts: those of a dataset config, at each of its levels, and the flags of the
same names, which count where the dataset config says nothing.

Source: library/config_util.py and docs/config_README-en.md of kohya-ss/sd-scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    fixed,
    flag,
    none,
    number,
    same,
    side,
    whole,
)

LEVELS = ("datasets[].subsets[].", "datasets[].", "general.", "")
"""Where a key may stand, the nearest first; the last is the command line."""
_NAMES = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
"""What the command line calls them."""
VARIANTS = 8
READ = "data.source reads it from the dataset config"
"""Of the keys that raytrain/data/sources/kohya.py reads."""
DEFAULTS: dict[str, Any] = {
    "enable_bucket": False,
    "bucket_reso_steps": 64,
    "train_batch_size": 1,
}


def counts(name: str, asked: Asked) -> Any:
    """Return what counts for a key for the first subset."""
    for level in LEVELS:
        key = level.replace("[]", "[0]") + (name if level else _NAMES.get(name, name))
        if key in asked.given:
            return asked.given[key]
    return asked.defaults.get(_NAMES.get(name, name))


def data(name: str, rule: Rule) -> Rule:
    """Return the rule at every level: the value counts where no nearer level has another, and is
    without an equal where subsets differ, since ours holds for all images."""

    def apply(value: Any, asked: Asked) -> Said:
        if value == counts(name, asked):
            return rule(value, asked)
        if ".subsets[" in asked.key or _no_nearer(name, asked):
            return Said(missing=f"subsets differ in {name}; ours is one for all images")
        return Said(note="a nearer level of the dataset config counts")

    return apply


def _no_nearer(name: str, asked: Asked) -> bool:
    """Return whether no other key of the dataset's own level or below overrides this one."""
    if not asked.key.startswith("datasets["):
        return False
    return f"{asked.beside}subsets[0].{name}" not in asked.given


def _resolution(value: Any, asked: Asked) -> Said:
    width, height = side(value)
    if not flag(counts("enable_bucket", asked)):
        return Said(fixed(width, height), note="one size: buckets are off there")
    step = whole(counts("bucket_reso_steps", asked) or 64)
    area = round((width * height) ** 0.5 / step) * step
    if width != height:
        return Said(
            {"data.buckets.resolution": area},
            missing=f"an area of {width} x {height}; ours is that of a square",
        )
    return Said({"data.buckets.resolution": area})


def _bucketed(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="all images get the size of `resolution`")
    settings: dict[str, Any] = {"data.buckets.rule": "kohya"}
    if not flag(counts("bucket_no_upscale", asked)):
        least, most = counts("min_bucket_reso", asked), counts("max_bucket_reso", asked)
        settings |= {"data.buckets.min_side": whole(least or 256)}
        settings |= {"data.buckets.max_side": whole(most or 1024)}
    return Said(settings)


def _limit(ours: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        if not flag(counts("enable_bucket", asked)):
            return Said(note="no effect there: buckets are off")
        if flag(counts("bucket_no_upscale", asked)):
            return Said(note="no effect there: bucket_no_upscale ignores the limits")
        return Said({ours: whole(value)})

    return rule


def _step(value: Any, asked: Asked) -> Said:
    if not flag(counts("enable_bucket", asked)):
        return Said(note="no effect there: buckets are off")
    return Said({"data.buckets.step": whole(value)})


def _no_upscale(value: Any, asked: Asked) -> Said:
    if not flag(value) or not flag(counts("enable_bucket", asked)):
        return Said(note="off")
    return Said({"data.buckets.upscale": False})


def _batch(value: Any, asked: Asked) -> Said:
    batch, workers = whole(value), whole(asked.of("launcher.num_processes") or 1)
    steps = whole(asked.of("gradient_accumulation_steps") or 1)
    settings = {"train.global_batch": batch * steps * workers}
    return Said(settings | ({"train.micro_batch": batch} if steps > 1 else {}))


def _shuffled(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said(
        {"data.captions.variants": VARIANTS},
        note=f"{VARIANTS} stored orders stand for a new one at each occurrence",
    )


def _tag_dropout(value: Any, asked: Asked) -> Said:
    share = number(value)
    if not share:
        return Said(note="off")
    return Said(
        {
            "data.captions.tag_dropout": share,
            "data.captions.variants": VARIANTS,
            "data.captions.shuffle_tags": flag(asked.of("shuffle_caption") or False),
        }
    )


def _warmup(value: Any, asked: Asked) -> Said:
    steps = number(value)
    if not steps:
        return Said(note="off")
    return Said(
        {
            "objective.caption_warmup": whole(value) if steps >= 1 else f"{steps * 100:g} %",
            "data.captions.warmup_stages": VARIANTS,
        }
    )


def _affix(key: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        return Said({key: str(value), "data.captions.affixes": "shuffled"} if value else {})

    return rule


def _colors(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said({"data.augment.colors": 1}, missing="colors drawn anew at each occurrence")


def _extension(value: Any, asked: Asked) -> Said:
    known = str(value) in (".txt", ".caption")
    return Said(note="read") if known else Said(missing=f"caption files named *{value}")


def _repeats(value: Any, asked: Asked) -> Said:
    return Said({"data.repeats": whole(value)})


EVERYWHERE: Mapping[str, Rule] = {
    "color_aug": _colors,
    "caption_dropout_every_n_epochs": To("objective.caption_dropout_epochs", whole),
    "token_warmup_step": _warmup,
    "resolution": _resolution,
    "enable_bucket": _bucketed,
    "min_bucket_reso": _limit("data.buckets.min_side"),
    "max_bucket_reso": _limit("data.buckets.max_side"),
    "bucket_reso_steps": _step,
    "bucket_no_upscale": _no_upscale,
    "batch_size": _batch,
    "flip_aug": To("data.augment.flip", flag),
    "random_crop": lambda value, asked: Said(
        {"data.buckets.crop": "random" if flag(value) else "center"},
        note="data.augment.crops says how many cuts are stored" if flag(value) else "",
    ),
    "face_crop_aug_range": none("cutting around faces by their size in file names"),
    "caption_dropout_rate": To("objective.caption_dropout", number),
    "resize_interpolation": none("the filter; ours is Lanczos", off=(*OFF, "lanczos")),
    "network_multiplier": none("a strength of the network for each dataset", off=(*OFF, 1, 1.0)),
    "cache_info": same("files are read again where they changed"),
    "skip_image_resolution": none("leaving images of one size out"),
    "custom_attributes": none("attributes for other programs"),
    "validation_split": To("data.held_out", number),
    "validation_seed": none("held-out images are chosen by their content"),
    "alpha_mask": lambda value, asked: Said(
        {"data.masks.kind": "alpha"} if flag(value) else {}, note="" if flag(value) else "off"
    ),
}
CAPTIONS: Mapping[str, Rule] = {
    "shuffle_caption": _shuffled,
    "keep_tokens": To("data.captions.keep_tags", whole),
    "keep_tokens_separator": To("data.captions.keep_separator", str),
    "secondary_separator": To("data.captions.secondary_separator", str),
    "enable_wildcard": To("data.captions.wildcards", flag),
    "caption_separator": To("data.captions.separator", lambda value: str(value).strip() or ","),
    "caption_tag_dropout_rate": _tag_dropout,
    "token_warmup_min": To("data.captions.warmup_min", whole),
    "caption_prefix": _affix("data.captions.prefix"),
    "caption_suffix": _affix("data.captions.suffix"),
}
"""Keys of captions as flags, which count where the dataset config says nothing."""
IN_CONFIG: Mapping[str, Rule] = dict.fromkeys(
    (
        "image_dir", "metadata_file", "is_reg", "class_tokens", "num_repeats",
        "caption_extension", "conditioning_data_dir", *CAPTIONS,
    ),
    same(READ),
)  # fmt: skip
"""Keys that the source reads from the file itself."""
FLAGS: Mapping[str, Rule] = {
    "caption_extension": _extension,
    "caption_extention": _extension,
    **CAPTIONS,
    "dataset_repeats": _repeats,
}
"""As flags of the command line."""


def rules() -> dict[str, Rule]:
    """Return the rules of the dataset config's keys and of the flags."""
    found: dict[str, Rule] = {
        _NAMES.get(name, name): data(name, rule) for name, rule in EVERYWHERE.items()
    }
    for level in LEVELS[:-1]:
        found |= {f"{level}{name}": data(name, rule) for name, rule in EVERYWHERE.items()}
        found |= {f"{level}{name}": rule for name, rule in IN_CONFIG.items()}
    return found | dict(FLAGS)
