"""diffusers' training scripts: a command line of text-to-image, DreamBooth, ControlNet or textual
inversion, of Stable Diffusion 1.x, XL and 3.

Source of flags and defaults: `parse_args` of each script in examples/ of huggingface/diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raytrain.importers import _diffusers_data, _optimizers, _usual
from raytrain.importers._read import SCRIPT, Document
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    each,
    factor,
    fixed,
    flag,
    none,
    norm,
    number,
    same,
    schedule,
    side,
    whole,
)

ASSUMED = _usual.ON_A_GPU


@dataclass(frozen=True)
class _Script:
    family: str
    method: str
    resolution: int = 512
    rate: float = 1e-4
    batch: int = 4
    epochs: int = 1
    decay: float = 1e-2
    text_rate: float | None = None
    """The text encoders' own default rate; None: the denoiser's."""


SCRIPTS: Mapping[str, _Script] = {
    "train_text_to_image.py": _Script("sd15", "full", batch=16, epochs=100),
    "train_text_to_image_lora.py": _Script("sd15", "lora", batch=16, epochs=100),
    "train_text_to_image_sdxl.py": _Script("sdxl", "full", 1024, batch=16, epochs=100),
    "train_text_to_image_lora_sdxl.py": _Script("sdxl", "lora", 1024, batch=16, epochs=100),
    "train_controlnet.py": _Script("sd15", "controlnet", rate=5e-6),
    "train_controlnet_sdxl.py": _Script("sdxl", "controlnet", rate=5e-6),
    "train_controlnet_sd3.py": _Script("sd3", "controlnet", rate=5e-6),
    "train_dreambooth.py": _Script("sd15", "full", rate=5e-6),
    "train_dreambooth_lora.py": _Script("sd15", "lora", rate=5e-4),
    "train_dreambooth_lora_sdxl.py": _Script("sdxl", "lora", 1024, decay=1e-4, text_rate=5e-6),
    "train_dreambooth_sd3.py": _Script("sd3", "full", decay=1e-4, text_rate=5e-6),
    "train_dreambooth_lora_sd3.py": _Script("sd3", "lora", decay=1e-4, text_rate=5e-6),
    "textual_inversion.py": _Script("sd15", "textual_inversion", batch=16, epochs=100),
    "textual_inversion_sdxl.py": _Script("sdxl", "textual_inversion", batch=16, epochs=100),
}
_KOHYA = ("dataset_config", "network_module", "output_name")
"""Flags of sd-scripts, one of whose scripts has the name of one of these."""


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document starts one of the scripts."""
    return any(
        each.command.get(SCRIPT) in SCRIPTS and not any(key in each.command for key in _KOHYA)
        for each in documents
    )


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the flags."""
    return {key: value for document in documents for key, value in document.command.items()}


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the script's defaults."""
    script = _script(given)
    found: dict[str, Any] = {
        "resolution": script.resolution,
        "learning_rate": script.rate,
        "train_batch_size": script.batch,
        "adam_weight_decay": script.decay,
        "num_train_epochs": script.epochs,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 500,
        "max_grad_norm": 1.0,
        "center_crop": False,
        "rank": 4,
    }
    if script.text_rate and flag(given.get("train_text_encoder") or False):
        found["text_encoder_lr"] = script.text_rate
    if script.family == "sd3":
        found |= {"weighting_scheme": "logit_normal", "precondition_outputs": 1}
    if script.method == "textual_inversion":
        del found["max_grad_norm"]
        found |= {"max_train_steps": 5000, "repeats": 100, "learnable_property": "object"}
    return found


def _script(given: Mapping[str, Any]) -> _Script:
    return SCRIPTS.get(str(given.get(SCRIPT)), _Script("", "full"))


def _named(value: Any, asked: Asked) -> Said:
    script = _script(asked.given)
    if not script.family:
        return Said(missing=f"what {value} trains; say which family with --family")
    settings: dict[str, Any] = {"model.family": script.family, "method.name": script.method}
    if script.method == "lora":
        settings["method.init"] = "gaussian"
    if script.method == "textual_inversion":
        # it mirrors every second image and clips nothing
        settings |= {"data.augment.flip": True, "train.max_grad_norm": 1e9}
    return Said(settings)


def _dreambooth(asked: Asked) -> bool:
    return "dreambooth" in str(asked.of(SCRIPT))


def _batch(value: Any, asked: Asked) -> Said:
    batch, steps = whole(value), whole(asked.of("gradient_accumulation_steps") or 1)
    workers = whole(asked.of("launcher.num_processes") or 1)
    settings = {"train.global_batch": batch * steps * workers}
    return Said(settings | ({"train.micro_batch": batch} if steps > 1 else {}))


def _scale(asked: Asked) -> float:
    if not flag(asked.of("scale_lr") or False):
        return 1.0
    of = ("train_batch_size", "gradient_accumulation_steps", "launcher.num_processes")
    first, second, third = (number(asked.of(key) or 1) for key in of)
    return first * second * third


def _rate(value: Any, asked: Asked) -> Said:
    rate = number(value)
    if str(asked.of("optimizer")).lower() == "prodigy" and rate <= 0.1:
        return Said({"train.learning_rate": rate}, note="1 is usual for Prodigy")
    return Said({"train.learning_rate": rate * _scale(asked)})


def _text_rate(value: Any, asked: Asked) -> Said:
    if not flag(asked.of("train_text_encoder") or False):
        return Said(note="text encoders do not learn")
    if str(asked.of("optimizer")).lower() == "prodigy":
        return Said(note="Prodigy has one rate for all weights there too")
    return Said({"method.text_rate": factor(value, asked.of("learning_rate"))})


def _text(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    if _script(asked.given).method != "lora":
        return Said(missing="text encoders that learn as a whole; method `lora` has text_rank")
    return Said({"method.text_rank": whole(asked.of("rank"))})


def _rank(value: Any, asked: Asked) -> Said:
    return Said({"method.rank": whole(value)} if _script(asked.given).method == "lora" else {})


def _warmup(value: Any, asked: Asked) -> Said:
    if asked.of("lr_scheduler") == "constant":
        return Said(note="no effect there: the schedule `constant` has no warm-up")
    return Said({"train.warmup": whole(value)})


def _epochs(value: Any, asked: Asked) -> Said:
    if asked.of("max_train_steps"):
        return Said(note="max_train_steps counts there")
    return Said({"train.epochs": whole(value)})


def _crop(value: Any, asked: Asked) -> Said:
    method = _script(asked.given).method
    if flag(value or False) or method == "controlnet":
        return Said({"data.buckets.crop": "center"})
    if method == "textual_inversion":
        return Said(missing="images pressed into a square; ours are cut")
    return Said(
        {"data.buckets.crop": "random"}, note="data.augment.crops says how many cuts are stored"
    )


def _optimizer(value: Any, asked: Asked) -> Said:
    if flag(asked.of("use_8bit_adam") or False) and str(value).lower() == "adamw":
        return Said(note="use_8bit_adam chooses")
    return _optimizers.chosen(value, ("weight_decay",))


def _8bit(value: Any, asked: Asked) -> Said:
    return Said({"train.optimizer": "adamw8bit"} if flag(value) else {})


def _betas(value: Any, asked: Asked) -> Said:
    first, second = asked.of("adam_beta1") or 0.9, asked.of("adam_beta2") or 0.999
    return Said({"train.betas": [number(first), number(second)]})


def _prodigy(value: Any, asked: Asked) -> Said:
    if str(asked.of("optimizer")).lower() != "prodigy":
        return Said(note="of Prodigy alone")
    name = asked.key.removeprefix("prodigy_")
    return Said() if value is None else _optimizers.option(name, value, "prodigy")


_FLOW = "drawn timesteps of flow matching; ours are uniform, shifted as the model's scheduler says"
_HUB = none("uploads; `huggingface-cli upload` sends an export")
RULES: Mapping[str, Rule] = {
    **_diffusers_data.RULES,
    SCRIPT: _named,
    **_usual.LAUNCHER,
    "pretrained_model_name_or_path": _usual.model,
    "pretrained_vae_model_name_or_path": _usual.vae,
    "revision": To("model.revision", str),
    "variant": To("model.variant", str),
    "non_ema_revision": none("another revision's denoiser"),
    "tokenizer_name": none("another tokenizer"),
    "tokenizer_max_length": none("another length of captions; see model.max_tokens"),
    "controlnet_model_name_or_path": To("method.path", str),
    "output_dir": To("output", str),
    "seed": To("seed", whole),
    "resolution": lambda value, asked: Said(fixed(*side(value))),
    "center_crop": _crop,
    "random_flip": To("data.augment.flip", flag),
    "image_interpolation_mode": none("the filter; ours is Lanczos", off=(*OFF, "lanczos")),
    "train_batch_size": _batch,
    "gradient_accumulation_steps": same("in train.global_batch"),
    "num_train_epochs": _epochs,
    "max_train_steps": To("train.steps", whole),
    "learning_rate": _rate,
    "scale_lr": same("in train.learning_rate"),
    "text_encoder_lr": _text_rate,
    "train_text_encoder": _text,
    "lr_scheduler": lambda value, asked: schedule(str(value), "lr_num_cycles", "lr_power")(
        value, asked
    ),
    "lr_warmup_steps": _warmup,
    "lr_num_cycles": same("of lr_scheduler = cosine_with_restarts"),
    "lr_power": same("of lr_scheduler = polynomial"),
    "optimizer": _optimizer,
    "use_8bit_adam": _8bit,
    "adam_beta1": _betas,
    "adam_beta2": _betas,
    "adam_epsilon": To("train.epsilon", number),
    "adam_weight_decay": To("train.weight_decay", number),
    "adam_weight_decay_text_encoder": none("a decay of the text encoders alone"),
    "prodigy_*": _prodigy,
    "max_grad_norm": To("train.max_grad_norm", norm),
    "mixed_precision": To("train.precision", each(_usual.PRECISION)),
    "gradient_checkpointing": To("train.gradient_checkpointing", flag),
    "allow_tf32": none('matrices multiplied in TF32; train.precision = "bf16" is faster still'),
    **dict.fromkeys(
        ("enable_xformers_memory_efficient_attention", "enable_npu_flash_attention"),
        _usual.ATTENTION,
    ),
    **dict.fromkeys(
        ("dataloader_num_workers", "set_grads_to_none", "dataset_preprocess_batch_size"),
        same("by itself here"),
    ),
    **dict.fromkeys(("cache_latents", "pre_compute_text_embeddings"), _usual.CACHED),
    "upcast_vae": same("data.encode.precision is fp32 unless set"),
    "rank": _rank,
    "lora_dropout": none(
        "dropout in adapters; it would draw numbers that belong to a worker, not to a row"
    ),
    "use_dora": To("method.dora", flag),
    "lora_layers": To(
        "method.targets", lambda value: [name.strip() for name in str(value).split(",")]
    ),
    "lora_blocks": none("some blocks alone; name layers in method.targets"),
    "snr_gamma": To("objective.min_snr_gamma", number),
    "noise_offset": To("objective.noise_offset", number),
    "offset_noise": lambda value, asked: Said(
        {"objective.noise_offset": 0.1} if flag(value) else {}
    ),
    "proportion_empty_prompts": To("objective.caption_dropout", number),
    "prediction_type": To(
        "objective.prediction", each({"epsilon": "epsilon", "v_prediction": "v_prediction"})
    ),
    "input_perturbation": none("noise added to the noise"),
    "dream_training": none("DREAM's second pass"),
    "dream_detail_preservation": same("of dream_training"),
    "do_edm_style_training": none("EDM's preconditioning"),
    "timestep_bias_strategy": none(
        "timesteps drawn more often; objective.timestep_range cuts them"
    ),
    "timestep_bias_*": same("of timestep_bias_strategy"),
    "weighting_scheme": none(_FLOW, off=(*OFF, "uniform")),
    "logit_mean": same("of weighting_scheme"),
    "logit_std": same("of weighting_scheme"),
    "mode_scale": same("of weighting_scheme"),
    "precondition_outputs": none("an error of the clean latents instead of the velocity"),
    "max_sequence_length": none("another length of captions", off=(*OFF, 77, "77")),
    "use_ema": lambda value, asked: Said({"train.ema": 0.9999} if flag(value) else {}),
    "offload_ema": same("the average is small beside the optimizer's state"),
    "foreach_ema": same("the average is made tensor by tensor"),
    "crops_coords_top_left_*": same("each image's own cut is told to the model"),
    "num_extra_conditioning_channels": none("more channels of the control image"),
    "class_labels_conditioning": none("a model with class labels"),
    "text_encoder_use_attention_mask": none("a mask of the caption's padding"),
    "placeholder_token": To("method.tokens", lambda value: [str(value)]),
    "initializer_token": To("method.init", str),
    "num_vectors": To("method.vectors", whole),
    "checkpointing_steps": To("train.checkpoint_every", whole),
    "save_steps": same("each checkpoint holds the vectors; raytrain export writes them"),
    "checkpoints_total_limit": To("train.keep_checkpoints", whole),
    "resume_from_checkpoint": none("another trainer's state; a run of ours resumes by itself"),
    "report_to": _usual.report_to,
    "tracker_project_name": To("log.project", str),
    "logging_dir": same("a run's folder holds its logs"),
    "cache_dir": same("the hub's own cache"),
    **dict.fromkeys(("push_to_hub", "hub_token", "hub_model_id"), _HUB),
    **dict.fromkeys(
        (
            "output_kohya_format",
            "save_as_full_pipeline",
            "skip_save_text_encoder",
            "upcast_before_saving",
            "no_safe_serialization",
        ),
        same("raytrain export writes every format that can hold it"),
    ),
    "debug_loss": none("each image's loss; sample_log has it"),
    "local_rank": same("of the launcher"),
}
