"""Keys of ai-toolkit's data sets, and of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers import _usual
from raytrain.importers._ai_toolkit_network import P, method, process
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    each,
    flag,
    listed,
    none,
    number,
    same,
    side,
    whole,
)

VARIANTS = 8


def _source(value: Any, asked: Asked) -> Said:
    return Said({f"data.subsets[{asked.index}].source": str(value)})


def _subset(key: str, convert: Any, **more: Any) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        if value in OFF:
            return Said(note="off")
        at = f"data.subsets[{asked.index}]."
        return Said(
            {f"{at}{key}": convert(value), **{k.replace("__", "."): v for k, v in more.items()}}
        )

    return rule


def _resolution(value: Any, asked: Asked) -> Said:
    sides = [whole(each) for each in value] if isinstance(value, list) else [side(value)[0]]
    buckets = asked.of(asked.beside + "buckets")
    if not flag(True if buckets is None else buckets):
        return Said(
            {"data.buckets.resolution": sides[0], "data.buckets.sizes": [[s, s] for s in sides]}
        )
    step = whole(asked.of(asked.beside + "bucket_tolerance") or 64)
    found: dict[str, Any] = {
        "data.buckets.rule": "kohya",
        "data.buckets.upscale": False,
        "data.buckets.step": step,
        "data.buckets.resolution": max(sides),
    }
    if len(sides) > 1:
        found["data.buckets.resolutions"] = sides
    return Said(found, note="each image keeps its shape, cut to the step, and is not enlarged")


def _shuffle(value: Any, asked: Asked) -> Said:
    note = f"{VARIANTS} stored orders stand for a new one at each occurrence"
    return (
        Said({"data.captions.variants": VARIANTS}, note=note) if flag(value) else Said(note="off")
    )


def _token_dropout(value: Any, asked: Asked) -> Said:
    share = number(value)
    if not share:
        return Said(note="off")
    return Said(
        {
            "data.captions.tag_dropout": share,
            "data.captions.variants": VARIANTS,
            "data.captions.shuffle_tags": flag(asked.of(f"{asked.beside}shuffle_tokens") or False),
        }
    )


def _extension(value: Any, asked: Asked) -> Said:
    known = str(value).lstrip(".") in ("txt", "caption")
    return (
        Said(note="read")
        if known
        else Said(missing=f"caption files named *.{str(value).lstrip('.')}")
    )


def _trigger(value: Any, asked: Asked) -> Said:
    return Said(
        {"data.captions.trigger": str(value), "data.captions.placeholder": "[trigger]"}
        if value
        else {}
    )


def _default_caption(value: Any, asked: Asked) -> Said:
    if value == "[trigger]" and method(asked) == "textual_inversion":
        return Said(note="the trigger stands in every caption")
    return none("a caption for images that have none")(value, asked)


def _embedding(value: Any, asked: Asked) -> Said:
    return Said({"method.tokens": [str(value)], "data.captions.trigger": str(value),
                 "data.captions.placeholder": "[trigger]"})  # fmt: skip


def _spoken(text: Any, asked: Asked) -> str:
    word = process(asked, "trigger_word") or process(asked, "embedding.trigger") or ""
    return (
        str(text)
        .replace("[trigger]", str(word))
        .replace("[name]", str(asked.of("config.name") or ""))
    )


def _prompts(value: Any, asked: Asked) -> Said:
    return _usual.prompts([_spoken(each, asked) for each in listed(value)], asked)


def _sample(value: Any, asked: Asked) -> Said:
    if asked.index:
        return Said(note="in sample.prompts")
    texts = [
        text
        for number_ in range(1000)
        if (text := asked.of(f"{P}sample.samples[{number_}].prompt"))
    ]
    return _usual.prompts([_spoken(each, asked) for each in texts], asked)


RULES: Mapping[str, Rule] = {
    "trigger_word": _trigger,
    "embedding.trigger": _embedding,
    "embedding.tokens": To("method.vectors", whole),
    "embedding.init_words": To("method.init", str),
    "embedding.save_format": none(
        "pickled files; exports are safetensors", off=(*OFF, "safetensors")
    ),
    "datasets[].folder_path": _source,
    "datasets[].dataset_path": _source,
    "datasets[].caption_ext": _extension,
    "datasets[].caption_type": _extension,
    "datasets[].default_caption": _default_caption,
    "datasets[].trigger_word": none("a trigger for one data set; data.captions.trigger is of all"),
    "datasets[].caption_dropout_rate": To("objective.caption_dropout", number),
    "datasets[].shuffle_tokens": _shuffle,
    "datasets[].token_dropout_rate": _token_dropout,
    "datasets[].keep_tokens": To("data.captions.keep_tags", whole),
    **dict.fromkeys(
        (
            "datasets[].cache_latents",
            "datasets[].cache_latents_to_disk",
            "datasets[].cache_text_embeddings",
            "datasets[].num_workers",
            "datasets[].prefetch_factor",
            "datasets[].fast_image_size",
        ),
        _usual.CACHED,
    ),
    "datasets[].resolution": _resolution,
    "datasets[].buckets": same("of resolution"),
    "datasets[].bucket_tolerance": same("of resolution"),
    "datasets[].num_repeats": _subset("repeats", whole),
    "datasets[].is_reg": _subset("regularization", flag),
    "datasets[].loss_multiplier": _subset("weight", number),
    "datasets[].mask_path": _subset("masks", str, data__masks__kind="folder"),
    "datasets[].control_path": _subset("controls", str, data__controls__kind="folder"),
    "datasets[].alpha_mask": lambda value, asked: Said(
        {"data.masks.kind": "alpha"} if flag(value) else {}
    ),
    "datasets[].flip_x": To("data.augment.flip", flag),
    "datasets[].flip_y": none("images upside down"),
    "datasets[].random_crop": lambda value, asked: Said(
        {"data.buckets.crop": "random"} if flag(value) else {}
    ),
    "datasets[].num_frames": none("videos", off=(*OFF, 1)),
    "datasets[].network_weight": none("a strength of the network for one data set", off=(1, 1.0)),
    "datasets[].mask_min_value": none("a least weight of a mask", off=(0, 0.0)),
    "datasets[].type": none("another kind of data set", off=(*OFF, "image")),
    **dict.fromkeys(
        (
            f"datasets[].{key}"
            for key in (
                "scale",
                "random_scale",
                "augments",
                "augmentations",
                "invert_mask",
                "controls",
                "prior_reg",
                "random_triggers",
                "clip_image_path",
                "inpaint_path",
                "square_crop",
                "shrink_video_to_frames",
                "do_i2v",
                "fps",
                "auto_frame_count",
                "do_audio",
            )
        ),
        none("this option of a data set", off=(*OFF, [], 1, 1.0)),
    ),
    "sample.sampler": To(
        "sample.scheduler",
        each(
            {
                "ddpm": "auto",
                "flowmatch": "auto",
                "ddim": "ddim",
                "euler": "euler",
                "euler_a": "euler_ancestral",
                "dpmsolver++": "dpmpp_2m",
            }
        ),
    ),
    "sample.sample_every": To("train.sample_every", whole),
    "sample.sample_start_step": none("images from a later step on"),
    "sample.width": To("sample.width", whole),
    "sample.height": To("sample.height", whole),
    "sample.prompts": _prompts,
    "sample.samples[].prompt": _sample,
    "sample.samples[].*": none(
        "what one prompt has of its own; sample.prompt_file takes it as flags"
    ),
    "sample.neg": lambda value, asked: Said(
        {"sample.negative_prompt": str(value)} if value else {}
    ),
    "sample.seed": To("sample.seed", whole),
    "sample.walk_seed": same("image i has the seed sample.seed + i"),
    "sample.guidance_scale": To("sample.guidance_scale", number),
    "sample.sample_steps": To("sample.steps", whole),
    "sample.network_multiplier": none("a weaker adapter in images", off=(*OFF, 1, 1.0)),
    **dict.fromkeys(
        ("sample.format", "sample.ext", "sample.num_frames", "sample.fps"),
        same("of files of its own"),
    ),
    "sample.guidance_rescale": none("a rescaled guidance"),
}
