"""Keys of the images of diffusers' scripts, and of what they draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers import _usual
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
    whole,
)


def _named_set(value: Any, asked: Asked) -> Said:
    return Said(
        {"data.subsets[0].source": str(value)},
        missing="data sets of the hub by name; download it and name its folder as the source",
    )


def _folder(value: Any, asked: Asked) -> Said:
    if asked.of("dataset_name"):
        return Said(note="dataset_name counts there")
    return Said({"data.subsets[0].source": str(value)})


def _prompt(value: Any, asked: Asked) -> Said:
    note = "the caption of every image; caption files beside images would follow it"
    return Said({"data.subsets[0].prefix": str(value)}, note=note)


def _class(ours: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        if not flag(asked.of("with_prior_preservation") or False):
            return Said(note="with_prior_preservation is off there")
        if not asked.of("class_data_dir"):
            return Said(
                missing="images of the class drawn by the base; draw them and give class_data_dir"
            )
        weight = number(asked.of("prior_loss_weight") or 1)
        given = value if ours != "weight" else weight
        return Said({f"data.subsets[1].{ours}": given, "data.subsets[1].regularization": True,
                     "data.subsets[1].weight": weight})  # fmt: skip

    return rule


def _learnable(value: Any, asked: Asked) -> Said:
    word = str(asked.of("placeholder_token") or "")
    return Said(
        {"data.captions.trigger": word} if word else {},
        missing=f"captions from templates of {value}s; the new word stands before each caption",
    )


def _validation_steps(value: Any, asked: Asked) -> Said:
    return Said({"train.sample_every": whole(value)})


def _columns(usual: str) -> Rule:
    return none("a column's name; ours are found by their usual names", off=(*OFF, usual))


RULES: Mapping[str, Rule] = {
    "dataset_name": _named_set,
    "dataset_config_name": none("a configuration of a data set of the hub"),
    "train_data_dir": _folder,
    "instance_data_dir": _folder,
    "instance_prompt": _prompt,
    "class_data_dir": _class("source"),
    "class_prompt": _class("prefix"),
    "prior_loss_weight": _class("weight"),
    "with_prior_preservation": lambda value, asked: (
        Said(note="the second subset" if asked.of("class_data_dir") else "")
        if asked.of("class_data_dir") or not flag(value)
        else _class("source")(value, asked)
    ),
    "num_class_images": none("images of the class drawn by the base; all of class_data_dir count"),
    "sample_batch_size": To("sample.batch", whole),
    "prior_generation_precision": none("images of the class drawn by the base"),
    "image_column": _columns("image"),
    "caption_column": To("data.subsets[0].caption_column", str),
    "conditioning_image_column": _columns("conditioning_image"),
    "max_train_samples": none("only the first images; give a smaller source"),
    "repeats": To("data.repeats", whole),
    "learnable_property": _learnable,
    "validation_prompt": _usual.prompts,
    "validation_prompts": _usual.prompts,
    "validation_image": To("sample.controls", listed),
    "validation_images": none("images that the base is asked with"),
    "num_validation_images": To("sample.images_per_prompt", whole),
    "validation_epochs": To("train.sample_every", lambda value: f"{whole(value)} epochs"),
    "validation_steps": _validation_steps,
    "validation_scheduler": To(
        "sample.scheduler", each({"DPMSolverMultistepScheduler": "dpmpp_2m"})
    ),
}
