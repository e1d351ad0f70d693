"""bghira/SimpleTuner: config.json, and multidatabackend.json next to it.

Source of keys and defaults: simpletuner_sdk/server/services/field_registry and
documentation/OPTIONS.md of bghira/SimpleTuner; of optimizers: helpers/training/optimizer_param.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.importers import _simpletuner_data, _simpletuner_network, _usual
from raytrain.importers._read import Document, flat
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    each,
    flag,
    none,
    number,
    same,
    side,
    whole,
)

ASSUMED = _usual.ON_A_GPU
FAMILIES = {"sd1x": "sd15", "sdxl": "sdxl", "sd3": "sd3"}
_MODELS: Mapping[str, Mapping[Any, str]] = {
    "sd1x": {
        None: "Lykon/dreamshaper-8",
        "dreamshaper": "Lykon/dreamshaper-8",
        "1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "1.4": "CompVis/stable-diffusion-v1-4",
    },
    "sdxl": {
        None: "stabilityai/stable-diffusion-xl-base-1.0",
        "base-1.0": "stabilityai/stable-diffusion-xl-base-1.0",
    },
    "sd3": {
        None: "stabilityai/stable-diffusion-3.5-medium",
        "medium": "stabilityai/stable-diffusion-3.5-medium",
        "large": "stabilityai/stable-diffusion-3.5-large",
    },
}
"""Flavours -> hub ids, of HUGGINGFACE_PATHS and DEFAULT_MODEL_FLAVOUR."""


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document is a config.json of SimpleTuner."""
    return any({"model_family", "--model_family"} & each.table.keys() for each in documents)


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the options without dashes, those of lycoris_config.json under `lycoris`, and the
    data backends' keys under `backend`."""
    found: dict[str, Any] = {}
    for document in documents:
        table = document.table
        if isinstance(document.tree, list):
            found |= flat(document.tree, "backend")
        elif "algo" in table:
            found |= flat(dict(table), "lycoris")
        else:
            found |= {key.lstrip("-"): value for key, value in table.items()}
    pairs = str(found.pop("optimizer_config", None) or "").split(",")
    return found | {
        f"optimizer_config.{name}": value
        for name, _, value in (pair.partition("=") for pair in pairs)
        if name
    }


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options' defaults."""
    found: dict[str, Any] = {
        "model_type": "full",
        "pretrained_model_name_or_path": None,
        "optimizer": "adamw_bf16",
        "learning_rate": 4e-7,
        "lr_scheduler": "constant_with_warmup",
        "lr_end": 4e-7,
        "grad_clip_method": "value",
        "train_batch_size": 4,
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "caption_dropout_probability": 0.1,
        "checkpoints_total_limit": 5,
        "num_train_epochs": 1,
        "validation_step_interval": 100,
        "validation_negative_prompt": "blurry, cropped, ugly",
        "output_dir": "simpletuner-results",
        "lr_power": 0.8,
    }
    if given.get("model_type") == "lora":
        found |= {"lora_type": "standard"}
        if given.get("lora_type", "standard") == "standard":
            found |= {"lora_rank": 16, "lora_dropout": 0.1}
    if not any(key.startswith("backend[") and key.endswith("].resolution") for key in given):
        found["resolution"] = 1024
    return found


def _family(value: Any, asked: Asked) -> Said:
    missing = "" if str(value) in FAMILIES else f"the model {value}; it is no family here"
    return Said({"model.family": FAMILIES.get(str(value), str(value))}, missing=missing)


def _batch(value: Any, asked: Asked) -> Said:
    batch, steps = whole(value), whole(asked.of("gradient_accumulation_steps") or 1)
    workers = whole(asked.of("num_processes") or 1)
    settings = {"train.global_batch": batch * steps * workers}
    return Said(settings | ({"train.micro_batch": batch} if steps > 1 else {}))


def _resolution(value: Any, asked: Asked) -> Said:
    if any(key.startswith("backend[") and key.endswith("].resolution") for key in asked.given):
        return Said(note="each backend has its own")
    return _simpletuner_data.area(value, asked)


def _hub_id(value: Any, asked: Asked) -> Said:
    return (
        Said(note="push_to_hub is off")
        if not flag(asked.of("push_to_hub") or False)
        else _HUB(value, asked)
    )


def _model(value: Any, asked: Asked) -> Said:
    flavours = _MODELS.get(str(asked.of("model_family")), {})
    found = value or flavours.get(asked.of("model_flavour"))
    if found:
        return _usual.model(found, asked)
    return Said(missing="the model it takes by itself; give model.path")


def _steps(value: Any, asked: Asked) -> Said:
    return Said({"train.steps": whole(value)} if value and whole(value) else {})


def _epochs(value: Any, asked: Asked) -> Said:
    if not value or whole(asked.of("max_train_steps") or 0):
        return Said(note="max_train_steps counts there")
    return Said({"train.epochs": whole(value)})


def _noise(value: Any, asked: Asked) -> Said:
    if not flag(asked.of("offset_noise") or False):
        return Said(note="no effect there: offset_noise is off")
    share = number(asked.of("noise_offset_probability") or 0.25)
    strength = number(asked.of("noise_offset") or 0.1)
    missing = "" if share == 1 else f"an offset for {share:g} of the batches; ours is for all"
    return Said({"objective.noise_offset": strength}, missing=missing)


def _quantized(value: Any, asked: Asked) -> Said:
    if value in ("no_change", None):
        return Said(note="as here")
    kind = {"int8": "int8", "nf4": "nf4", "int4": "nf4"}.get(str(value).partition("-")[0])
    return Said({"model.quantize": kind} if kind else {}, missing=f"the base in {value}")


def _size(value: Any, asked: Asked) -> Said:
    width, height = side(str(value).split(",")[0] if "x" in str(value) else value)
    several = "x" in str(value) and "," in str(value)
    return Said({"sample.width": width, "sample.height": height},
                missing="several sizes; the first is written" if several else "")  # fmt: skip


_STORED = same("raytrain stores what it encodes in the dataset's folder")
_HUB = none("uploads; `huggingface-cli upload` sends an export")
_FLOW = none("this draw of timesteps; ours are uniform, shifted as the model's scheduler says")
_GUIDED = none("this kind of guidance in images", off=(*OFF, 0.0, "0.0"))
RULES: Mapping[str, Rule] = {
    **_simpletuner_data.RULES,
    **_simpletuner_network.RULES,
    "model_family": _family,
    "model_flavour": same("pretrained_model_name_or_path says which"),
    "controlnet_model_name_or_path": To("method.path", str),
    "pretrained_model_name_or_path": _model,
    "pretrained_vae_model_name_or_path": _usual.vae,
    "revision": To("model.revision", str),
    "variant": To("model.variant", str),
    "base_model_precision": _quantized,
    "quantize_via": same("of base_model_precision"),
    "base_model_default_dtype": same("frozen weights are of the type of train.precision"),
    "vae_dtype": same("data.encode.precision is fp32 unless set"),
    "tokenizer_max_length": none("another length of captions; see model.max_tokens"),
    "prediction_type": To(
        "objective.prediction", each({"epsilon": "epsilon", "v_prediction": "v_prediction"})
    ),
    "rescale_betas_zero_snr": none("a schedule rescaled to end without signal"),
    "data_backend_config": lambda value, asked: (
        Said(note="given")
        if any(key.startswith("backend[") for key in asked.given)
        else Said(missing="the data backends it names; give that file too")
    ),
    "data_backend_sampling": none(
        "how backends are mixed; repeats says it", off=(*OFF, "auto-weighting")
    ),
    "resolution": _resolution,
    "resolution_type": same("of resolution"),
    "aspect_bucket_rounding": none(
        "shapes rounded to decimals; ours are a list", off=(*OFF, 2, "2")
    ),
    "aspect_bucket_alignment": To("data.buckets.step", whole),
    "minimum_image_size": lambda value, asked: Said(
        {"data.quality.min_side": whole(value)} if value and number(value) else {}
    ),
    "maximum_image_size": same("large images are made smaller at once"),
    "target_downsample_size": same("large images are made smaller at once"),
    "disable_bucket_pruning": same("every image is shown, in small buckets too"),
    "allow_dataset_oversubscription": same("every image is shown, in small buckets too"),
    "caption_strategy": none("captions of this kind", off=(*OFF, "textfile", "filename")),
    "instance_prompt": none("an instance prompt of all; give it to the backend"),
    "caption_dropout_probability": To("objective.caption_dropout", number),
    "output_dir": To("output", str),
    "seed": To("seed", whole),
    "seed_for_each_device": same(
        "a number belongs to an image and its occurrence, not to a device"
    ),
    "train_batch_size": _batch,
    "gradient_accumulation_steps": same("in train.global_batch"),
    "num_processes": To("train.workers", whole),
    "max_train_steps": _steps,
    "num_train_epochs": _epochs,
    "mixed_precision": To("train.precision", each(_usual.PRECISION)),
    "gradient_checkpointing": To("train.gradient_checkpointing", flag),
    "gradient_checkpointing_interval": none("every n-th block alone"),
    "use_ema": lambda value, asked: Said(
        {"train.ema": number(asked.of("ema_decay") or 0.995)} if flag(value) else {}
    ),
    "ema_decay": same("of use_ema"),
    **dict.fromkeys(
        (
            "ema_device",
            "ema_cpu_only",
            "ema_update_interval",
            "ema_foreach_disable",
            "ema_validation",
        ),
        none("this option of the average", off=(*OFF, 1, "cpu", "comparison")),
    ),
    "loss_type": none("this loss; ours is the squared error", off=(*OFF, "l2")),
    "huber_schedule": same("of loss_type = huber"),
    "huber_c": same("of loss_type = huber"),
    "snr_gamma": lambda value, asked: Said(
        {"objective.min_snr_gamma": number(value)} if value else {}
    ),
    "use_soft_min_snr": none("a softened Min-SNR weight"),
    "offset_noise": _noise,
    "noise_offset": _noise,
    "noise_offset_probability": same("of offset_noise"),
    "input_perturbation": none("noise added to the noise", off=(*OFF, 0.0)),
    "input_perturbation_steps": same("of input_perturbation"),
    "masked_loss_probability": none("masks of a part of the batches", off=(*OFF, 1, 1.0)),
    "timestep_bias_strategy": none(
        "timesteps drawn more often; objective.timestep_range cuts them"
    ),
    "timestep_bias_*": same("of timestep_bias_strategy"),
    "disable_segmented_timestep_sampling": none(
        "timesteps drawn without strata; ours have none", off=(*OFF, True)
    ),
    "flow_schedule_shift": none(
        "a shift of the levels; the model's scheduler says it", off=(*OFF, 3, 3.0, "3")
    ),
    "flow_schedule_auto_shift": none("a shift by the image's size"),
    **dict.fromkeys(
        ("flow_use_uniform_schedule", "flow_use_beta_schedule", "flow_sigmoid_scale"), _FLOW
    ),
    "report_to": _usual.report_to,
    "tracker_project_name": To("log.project", str),
    "tracker_run_name": same("the run's folder names it"),
    "logging_dir": same("a run's folder holds its logs"),
    **dict.fromkeys(
        ("checkpoint_step_interval", "checkpointing_steps"), To("train.checkpoint_every", whole)
    ),
    "checkpoint_epoch_interval": To(
        "train.checkpoint_every", lambda value: f"{whole(value)} epochs"
    ),
    "checkpoints_total_limit": To("train.keep_checkpoints", whole),
    "resume_from_checkpoint": none(
        "another trainer's state; a run of ours resumes by itself", off=(*OFF, "latest")
    ),
    **dict.fromkeys(
        ("validation_step_interval", "validation_steps"), To("train.sample_every", whole)
    ),
    "validation_epoch_interval": To("train.sample_every", lambda value: f"{whole(value)} epochs"),
    "validation_prompt": _usual.prompts,
    "validation_negative_prompt": To("sample.negative_prompt", str),
    "validation_num_inference_steps": To("sample.steps", whole),
    "validation_guidance": To("sample.guidance_scale", number),
    "validation_resolution": _size,
    "validation_seed": To("sample.seed", whole),
    "num_validation_images": To("sample.images_per_prompt", whole),
    "validation_noise_scheduler": To(
        "sample.scheduler",
        each({"ddim": "ddim", "euler": "euler", "euler-a": "euler_ancestral", "unipc": "unipc"}),
    ),
    "validation_prompt_library": none(
        "prompts of its own library; write them into sample.prompts"
    ),
    "user_prompt_library": none(
        "prompts of a JSON file; write them into sample.prompt_file, one a line"
    ),
    "validation_disable_unconditional": same("there are no images without a prompt"),
    "validation_disable": none("no images; train.sample_every = 0 draws them at start and end"),
    "validation_torch_compile": none("compiled sampling"),
    **dict.fromkeys(
        (
            "validation_guidance_rescale",
            "validation_guidance_skip_layers",
            "validation_guidance_skip_layers_start",
            "validation_guidance_skip_layers_stop",
        ),
        _GUIDED,
    ),
    "num_eval_images": To("evaluate.max_held_out", whole),
    "eval_steps_interval": To("train.held_out_every", whole),
    "evaluation_type": none("scores while training; train.score_every", off=(*OFF, "none")),
    "disable_benchmark": same("the start's images are drawn too"),
    **dict.fromkeys(
        (
            "vae_batch_size",
            "vae_cache_ondemand",
            "vae_cache_disable",
            "cache_dir",
            "cache_dir_text",
            "cache_dir_vae",
            "compress_disk_cache",
            "skip_file_discovery",
            "preserve_data_backend_cache",
            "write_batch_size",
            "read_batch_size",
            "image_processing_batch_size",
            "override_dataset_config",
            "text_encoder_batch_size",
            "keep_vae_loaded",
            "dataloader_prefetch",
            "max_workers",
        ),
        _STORED,
    ),
    "attention_mechanism": _usual.ATTENTION,
    "disable_tf32": same("matrices are not multiplied in TF32"),
    "set_grads_to_none": same("by itself here"),
    **dict.fromkeys(("push_to_hub", "push_checkpoints_to_hub"), _HUB),
    **dict.fromkeys(
        (
            "hub_model_id",
            "model_card_private",
            "model_card_note",
            "model_card_safe_for_work",
            "push_to_hub_background",
        ),
        _hub_id,
    ),
    "i_know_what_i_am_doing": same("nothing is asked"),
}
