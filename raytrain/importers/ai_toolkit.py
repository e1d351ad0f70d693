"""ostris/ai-toolkit: a job in YAML or JSON with one training process.

Source of keys and defaults: toolkit/config_modules.py of ostris/ai-toolkit; of what they do:
toolkit/optimizer.py, toolkit/scheduler.py and toolkit/buckets.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.importers import _ai_toolkit_data, _ai_toolkit_network, _optimizers, _usual
from raytrain.importers._ai_toolkit_network import P, method, process
from raytrain.importers._read import Document, flat
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    each,
    factor,
    flag,
    none,
    norm,
    number,
    same,
    whole,
)

ASSUMED = _usual.ON_A_GPU


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document has `job` and `config.process`."""
    return any(
        "job" in each.table
        and isinstance(each.table.get("config"), dict)
        and "process" in each.table["config"]
        for each in documents
    )


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return its keys."""
    return {key: value for each in documents for key, value in flat(dict(each.table)).items()}


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of its config classes."""
    found: dict[str, Any] = {
        "train.optimizer": "adamw",
        "train.lr": 1e-6,
        "train.lr_scheduler": "constant",
        "train.steps": 1000,
        "train.batch_size": 1,
        "train.dtype": "fp32",
        "train.gradient_checkpointing": True,
        "train.max_grad_norm": 1.0,
        "save.save_every": 1000,
        "save.max_step_saves_to_keep": 5,
        "sample.sample_every": 100,
        "sample.width": 512,
        "sample.height": 512,
        "sample.guidance_scale": 7,
        "sample.sample_steps": 20,
        "model.arch": None,
    }
    if any(key.startswith(f"{P}network.") for key in given):
        found |= {
            "network.type": "lora",
            "network.linear": 4,
            "network.linear_alpha": given.get(f"{P}network.alpha", 1.0),
        }
        if "rank" in {key.rpartition(".")[2] for key in given}:
            del found["network.linear"]
    if any(key.startswith(f"{P}embedding.") for key in given):
        found |= {"embedding.tokens": 4, "embedding.init_words": "*"}
    if given.get(f"{P}train.noise_scheduler") == "flowmatch":
        found["train.timestep_type"] = "sigmoid"
    for number_ in range(_datasets(given)):
        found |= {f"datasets[{number_}].{key}": value for key, value in
                  {"resolution": 512, "buckets": True}.items()}  # fmt: skip
    return {f"{P}{key}": value for key, value in found.items()}


def _datasets(given: Mapping[str, Any]) -> int:
    start = f"{P}datasets["
    return len({key[len(start) :].partition("]")[0] for key in given if key.startswith(start)})


def _batch(value: Any, asked: Asked) -> Said:
    batch = whole(value)
    steps = whole(process(asked, "train.gradient_accumulation") or 1)
    steps = max(steps, whole(process(asked, "train.gradient_accumulation_steps") or 1))
    return Said(
        {
            "train.global_batch": batch * steps,
            **({"train.micro_batch": batch} if steps > 1 else {}),
        }
    )


def _optimizer(value: Any, asked: Asked) -> Said:
    start = f"{P}train.optimizer_params."
    names = [key.removeprefix(start) for key in asked.given if key.startswith(start)]
    kind = str(value).lower()
    if kind == "adafactor":
        made = _optimizers.adafactor(relative=False)
        return Said({**made.settings, "train.optimizer_options.scale_parameter": False,
                     "train.optimizer_options.warmup_init": False})  # fmt: skip
    made = _optimizers.chosen({"adamw8": "adamw8bit", "adam8": "adam8bit"}.get(kind, kind), names)
    # it gives Adam, AdamW and Prodigy an epsilon of 1e-6
    if made.missing or kind.startswith("lion") or kind == "adagrad" or "eps" in names:
        return made
    return Said({**made.settings, "train.epsilon": 1e-6})


def _option(value: Any, asked: Asked) -> Said:
    kind = str(process(asked, "train.optimizer")).lower()
    name = asked.key.rpartition(".")[2]
    if kind == "adafactor":
        return _optimizers.adafactor_option(name, value, relative=False)
    return _optimizers.option(name, value, {"adamw8": "adamw8bit"}.get(kind, kind))


def _rate(value: Any, asked: Asked) -> Said:
    rate = number(value)
    if (
        str(process(asked, "train.optimizer")).lower().startswith(("prodigy", "dadapt"))
        and rate < 0.1
    ):
        return Said({"train.learning_rate": 1.0}, note="below 0.1 it takes 1 for this optimizer")
    if asked.key == f"{P}train.lr" and process(asked, "train.unet_lr"):
        return Said(note="unet_lr counts there")
    return Said({"train.learning_rate": rate})


def _schedule(value: Any, asked: Asked) -> Said:
    if value in ("constant", "cosine"):
        return Said({"train.lr_schedule": value})
    if value == "cosine_with_restarts":
        return Said({"train.lr_schedule": "cosine"}, note="its one cycle is a cosine")
    if value == "constant_with_warmup":
        steps = whole(process(asked, "train.lr_scheduler_params.num_warmup_steps") or 1000)
        return Said({"train.lr_schedule": "constant", "train.warmup": steps})
    return Said(missing=f"the schedule {value!r} as it is there")


def _ema(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said({"train.ema": number(process(asked, "train.ema_config.ema_decay") or 0.999)})


def _output(value: Any, asked: Asked) -> Said:
    folder, name = (
        process(asked, "training_folder") or "output",
        asked.of("config.name") or "last",
    )
    return Said({"output": f"{str(folder).rstrip('/')}/{name}"})


_AID = none("this training aid")
_PRECISION = {
    **_usual.PRECISION,
    "float16": "fp16",
    "bfloat16": "bf16",
    "float32": "fp32",
    "fp32": "fp32",
}
_PROCESS: Mapping[str, Rule] = {
    **_ai_toolkit_data.RULES,
    **_ai_toolkit_network.RULES,
    "training_folder": _output,
    **dict.fromkeys(
        ("device", "performance_log_every", "sqlite_db_path", "log_dir"), same("of its own run")
    ),
    "save.dtype": To("export.precision", each(_PRECISION)),
    "save.save_every": To("train.checkpoint_every", whole),
    "save.max_step_saves_to_keep": To("train.keep_checkpoints", whole),
    "save.save_format": same("raytrain export writes every format that can hold it"),
    **dict.fromkeys(
        ("save.push_to_hub", "save.hf_repo_id", "save.hf_private"),
        none("uploads; `huggingface-cli upload` sends an export"),
    ),
    "train.steps": To("train.steps", whole),
    "train.batch_size": _batch,
    "train.gradient_accumulation": same("in train.global_batch"),
    "train.gradient_accumulation_steps": same("in train.global_batch"),
    "train.lr": _rate,
    "train.unet_lr": _rate,
    "train.text_encoder_lr": lambda value, asked: (
        To("method.text_rate", lambda rate: factor(rate, process(asked, "train.lr")))(value, asked)
        if flag(process(asked, "train.train_text_encoder") or False)
        else Said(note="text encoders do not learn")
    ),
    "train.embedding_lr": lambda value, asked: (
        Said({"train.learning_rate": number(value)})
        if method(asked) == "textual_inversion"
        else Said(note="of embeddings")
    ),
    "train.optimizer": _optimizer,
    "train.optimizer_params": same("no arguments"),
    "train.optimizer_params.*": _option,
    "train.lr_scheduler": _schedule,
    "train.lr_scheduler_params.num_warmup_steps": same("of lr_scheduler = constant_with_warmup"),
    "train.lr_scheduler_params*": none("an argument of the schedule", off=(*OFF, {})),
    "train.dtype": To("train.precision", each(_PRECISION)),
    "train.gradient_checkpointing": To("train.gradient_checkpointing", flag),
    "train.max_grad_norm": To("train.max_grad_norm", norm),
    "train.train_unet": lambda value, asked: (
        Said()
        if flag(value) or method(asked) == "textual_inversion"
        else Said(missing="text encoders that learn alone")
    ),
    "train.noise_scheduler": none(
        "another noise scheduler; the model's own counts", off=(*OFF, "ddpm", "flowmatch")
    ),
    "train.timestep_type": none(
        "this draw of timesteps; ours are uniform, shifted as the model's scheduler says",
        off=(*OFF, "linear"),
    ),
    "train.content_or_style": none(
        "timesteps drawn more often; objective.timestep_range cuts them", off=(*OFF, "balanced")
    ),
    "train.min_denoising_steps": none("a range of timesteps; see objective.timestep_range"),
    "train.max_denoising_steps": none(
        "a range of timesteps; see objective.timestep_range", off=(*OFF, 999, 1000)
    ),
    "train.num_train_timesteps": none("another number of timesteps", off=(*OFF, 1000)),
    "train.min_snr_gamma": To("objective.min_snr_gamma", number),
    "train.snr_gamma": none("a weight of the loss by SNR; objective.min_snr_gamma is the nearest"),
    "train.noise_offset": To("objective.noise_offset", number),
    "train.prompt_dropout_prob": To("objective.caption_dropout", number),
    "train.reg_weight": none(
        "a weight of regularization images; give it to their subset", off=(1, 1.0)
    ),
    "train.loss_type": none("this loss; ours is the squared error", off=(*OFF, "mse")),
    "train.ema_config.use_ema": _ema,
    "train.ema_config.ema_decay": same("of ema_config.use_ema"),
    "train.ema_config.*": _AID,
    "train.skip_first_sample": none("no images at the start"),
    "train.disable_sampling": none(
        "no images; train.sample_every = 0 draws them at start and end"
    ),
    **dict.fromkeys(("train.xformers", "train.sdp", "train.attention_backend"), _usual.ATTENTION),
    **dict.fromkeys(("train.cache_text_embeddings", "train.unload_text_encoder"), _usual.CACHED),
    **dict.fromkeys(
        (
            f"train.{key}"
            for key in (
                "weight_jitter",
                "linear_timesteps",
                "linear_timesteps2",
                "free_u",
                "inverted_mask_prior",
                "do_cfg",
                "diff_output_preservation",
                "blank_prompt_preservation",
                "dynamic_noise_offset",
                "correct_pred_norm",
                "match_noise_norm",
                "do_prior_divergence",
                "standardize_images",
                "standardize_latents",
                "train_turbo",
                "learnable_snr_gos",
                "short_and_long_captions",
                "single_item_batching",
                "do_paramiter_swapping",
                "bypass_guidance_embedding",
                "adaptive_scaling_factor",
                "merge_network_on_save",
                "force_first_sample",
                "do_differential_guidance",
                "force_consistent_noise",
                "negative_prompt",
                "start_step",
                "latent_feature_extractor_path",
            )
        ),
        _AID,
    ),
    "train.paramiter_swapping_factor": same("of do_paramiter_swapping"),
    "train.diff_output_preservation_*": same("of diff_output_preservation"),
    "logging.log_every": To("train.log_every", whole),
    "logging.use_wandb": lambda value, asked: Said({"log.wandb": "online"} if flag(value) else {}),
    "logging.project_name": To("log.project", str),
    "logging.*": same("prints more or less"),
}
RULES: Mapping[str, Rule] = {
    "job": none("a job that trains nothing", off=(*OFF, "extension", "train")),
    "config.name": _output,
    "config.training_folder": same("of the process"),
    "config.device": same("the worker's own"),
    "config.log_dir": same("a run's folder holds its logs"),
    "meta*": none("lines of the file's metadata", off=("[name]", "1.0", 1.0)),
    **{f"config.process[].{key}": rule for key, rule in _PROCESS.items()},
}
