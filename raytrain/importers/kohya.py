"""kohya-ss/sd-scripts: a command line or its `--config_file`, and the dataset config in TOML.

The dataset config stays where it is: `data.source` reads its folders, metadata and repeats, and
what it says of sizes, captions and batches is translated. Source of flags and defaults:
library/train_util.py, train_network.py and networks/lora.py of kohya-ss/sd-scripts; of lycoris:
lycoris/kohya.py of KohakuBlueleaf/LyCORIS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.importers import _kohya_data, _kohya_network, _kohya_optimizer, _usual
from raytrain.importers._kohya_network import unet_rate
from raytrain.importers._read import SCRIPT, Document, flat
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
    whole,
)

_LISTS = ("optimizer_args", "network_args", "lr_scheduler_args")
"""Flags that hold `key=value` pairs."""
ASSUMED = _usual.ON_A_GPU


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document starts a script of sd-scripts, or is its config."""
    return any(_is_dataset(each) or _is_config(each) or _is_command(each) for each in documents)


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return flags, and the dataset config's keys by their path in it.

    The command line counts before the config file, as there.
    """
    found: dict[str, Any] = {}
    for document in sorted(documents, key=lambda each: bool(each.command)):
        if _is_dataset(document):
            found |= flat(dict(document.table)) | {"dataset_config": document.path}
        elif document.table:
            for name, value in document.table.items():
                found |= value if isinstance(value, dict) else {name: value}
        else:
            own = document.command
            held = {"dataset_config"} & found.keys() if _is_dataset_given(documents) else set()
            found |= {key: value for key, value in own.items() if key not in held}
    for name in _LISTS:
        found |= _pairs(name, found.pop(name, None))
    return found


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags' defaults."""
    return {
        "optimizer_type": "" if _short(given) else "AdamW",
        "learning_rate": 2e-6,
        "lr_scheduler": "constant",
        "max_grad_norm": 1.0,
        "max_train_steps": 1600,
        "save_precision": "float",
        **_kohya_data.DEFAULTS,
        **_kohya_network.DEFAULTS,
    }


def _short(given: Mapping[str, Any]) -> bool:
    return bool(given.get("use_8bit_adam") or given.get("use_lion_optimizer"))


def _is_dataset(document: Document) -> bool:
    datasets = document.table.get("datasets")
    return isinstance(datasets, list) and any("subsets" in each for each in datasets)


def _is_dataset_given(documents: Sequence[Document]) -> bool:
    return any(map(_is_dataset, documents))


def _is_config(document: Document) -> bool:
    if not document.path.lower().endswith(".toml"):
        return False
    keys = set(flat(dict(document.table)))
    names = {key.rpartition(".")[2] for key in keys}
    return "pretrained_model_name_or_path" in names and not _is_dataset(document)


def _is_command(document: Document) -> bool:
    script = str(document.command.get(SCRIPT, ""))
    return script in _kohya_network.SCRIPTS or script.startswith(_kohya_network.OTHERS)


def _pairs(name: str, given: Any) -> dict[str, Any]:
    """Return `key=value` pairs; the document's own form with commas between them is read too."""
    words = given if isinstance(given, list) else [given] if given else []
    pairs: list[str] = []
    for word in ",".join(map(str, words)).split(","):
        if "=" in word or not pairs:
            pairs.append(word)
        else:  # a comma within a value
            pairs[-1] += f",{word}"
    return {
        f"{name}.{key.strip()}": value.strip()
        for key, _, value in (pair.partition("=") for pair in pairs)
        if key
    }


def _full_bf16(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said({"train.param_dtype": "bf16", "train.rounding": "nearest"})


def _output(value: Any, asked: Asked) -> Said:
    folder, name = str(asked.of("output_dir") or "runs"), str(asked.of("output_name") or "last")
    return Said({"output": f"{folder.rstrip('/')}/{name}"})


def _dataset(value: Any, asked: Asked) -> Said:
    read = any(key.startswith("datasets[") for key in asked.given)
    hint = (
        "give that file to `raytrain import` too: its sizes, batch and captions are not translated"
    )
    return Said({"data.source": str(value), "data.format": "kohya"}, note="" if read else hint)


def _folder(number_: int, regular: bool) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        at = f"data.subsets[{number_}]"
        lines = "each" if flag(asked.of("enable_wildcard") or False) else "first"
        settings: dict[str, Any] = {f"{at}.source": str(value), "data.captions.lines": lines}
        if regular:
            settings |= {f"{at}.regularization": True}
            settings |= {f"{at}.weight": number(asked.of("prior_loss_weight") or 1)}
        return Said(settings)

    return rule


def _masked(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said(
        {"data.masks.kind": "folder"},
        note="masks are the images of conditioning_data_dir, of which sd-scripts reads red and "
        "raytrain the brightness: the same in gray masks",
    )


def _steps(value: Any, asked: Asked) -> Said:
    if asked.given.get("max_train_epochs"):
        return Said(note="max_train_epochs counts there")
    return Said({"train.steps": whole(value)})


def _timesteps(value: Any, asked: Asked) -> Said:
    low, high = asked.of("min_timestep") or 0, asked.of("max_timestep") or 1000
    return Said({"objective.timestep_range": [number(low) / 1000, number(high) / 1000]})


def _every(ours: str, unit: str) -> Rule:
    text = {"steps": lambda value: whole(value), "epochs": lambda value: f"{whole(value)} epochs"}
    return To(ours, text[unit])


_TRACKED = none("a name or key of a tracker; wandb reads its own environment")
_LOADED = same("batches are made ahead by themselves")
_HUB = none("uploads; `huggingface-cli upload` sends an export")
_NOISE = none("this change of the noise; objective.noise_offset is all there is")
_STATE = same("each checkpoint holds the whole state")
_KEPT = To("train.keep_checkpoints", whole, "counted in checkpoints; the best is kept too")
RULES: Mapping[str, Rule] = {
    **_kohya_data.rules(),
    **_kohya_network.RULES,
    **_kohya_optimizer.RULES,
    **_usual.LAUNCHER,
    "launcher.mixed_precision": lambda value, asked: (
        Said(note="mixed_precision counts")
        if "mixed_precision" in asked.given
        else To("train.precision", each(_usual.PRECISION))(value, asked)
    ),
    "pretrained_model_name_or_path": _usual.model,
    "v2": none("Stable Diffusion 2; it is no family here"),
    "v_parameterization": lambda value, asked: Said(
        {"objective.prediction": "v_prediction"} if flag(value) else {}
    ),
    "vae": _usual.vae,
    "dataset_config": _dataset,
    "train_data_dir": _folder(0, regular=False),
    "reg_data_dir": _folder(1, regular=True),
    "prior_loss_weight": lambda value, asked: (
        Said(note="the weight of reg_data_dir's images")
        if "reg_data_dir" in asked.given
        else none("a weight of a dataset config's is_reg images", off=(1, 1.0, "1.0"))(
            value, asked
        )
    ),
    "in_json": none(
        "metadata without a dataset config; give one with image_dir and metadata_file"
    ),
    "conditioning_data_dir": To("data.subsets[0].controls", str),
    "dataset_class": none("a data set's class of its own"),
    "output_dir": _output,
    "output_name": _output,
    "seed": To("seed", whole),
    "max_train_steps": _steps,
    "max_train_epochs": To("train.epochs", whole),
    "gradient_accumulation_steps": lambda value, asked: Said(note="in train.global_batch"),
    "train_text_encoder": none("text encoders that learn as a whole; method `lora` has text_rank"),
    "stop_text_encoder_training": none("text encoders that stop", off=(*OFF, -1, "-1")),
    "mixed_precision": To("train.precision", each(_usual.PRECISION)),
    "full_bf16": _full_bf16,
    "full_fp16": none('weights that learn in fp16; train.param_dtype = "bf16" is the nearest'),
    "fp8_base": none('a base in 8-bit floats; model.quantize = "int8" is the nearest'),
    "fp8_base_unet": none('a base in 8-bit floats; model.quantize = "int8" is the nearest'),
    "gradient_checkpointing": To("train.gradient_checkpointing", flag),
    "cpu_offload_checkpointing": none("activations on the host"),
    "blocks_to_swap": none("blocks on the host; train.offload moves all weights"),
    "torch_compile": To("train.compile", flag),
    "dynamo_backend": none("another compiler", off=(*OFF, "inductor")),
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn", "diffusers_xformers"), _usual.ATTENTION),
    **dict.fromkeys(
        (
            "cache_latents",
            "cache_latents_to_disk",
            "vae_batch_size",
            "skip_cache_check",
            "cache_text_encoder_outputs",
            "cache_text_encoder_outputs_to_disk",
            "text_encoder_batch_size",
        ),
        _usual.CACHED,
    ),
    "no_half_vae": same("data.encode.precision is fp32 unless set"),
    **dict.fromkeys(
        ("lowram", "highvram", "disable_mmap_load_safetensors"), same("weights load part by part")
    ),
    "max_data_loader_n_workers": _LOADED,
    "persistent_data_loader_workers": _LOADED,
    "max_token_length": To("model.max_tokens", whole),
    "clip_skip": none("an earlier layer of the text encoder", off=(*OFF, 1, "1")),
    "weighted_captions": none("weights in captions, as in (word:1.2)"),
    "masked_loss": _masked,
    "min_snr_gamma": To("objective.min_snr_gamma", number),
    "noise_offset": To("objective.noise_offset", number),
    "adaptive_noise_scale": _NOISE,
    "noise_offset_random_strength": _NOISE,
    "multires_noise_iterations": _NOISE,
    "multires_noise_discount": _NOISE,
    "ip_noise_gamma": _NOISE,
    "ip_noise_gamma_random_strength": _NOISE,
    "zero_terminal_snr": none(
        "a schedule rescaled to end without signal; set it in the model's scheduler"
    ),
    "min_timestep": _timesteps,
    "max_timestep": _timesteps,
    "loss_type": none("this loss; ours is the squared error", off=("l2",)),
    **dict.fromkeys(("huber_schedule", "huber_c", "huber_scale"), same("of loss_type = huber")),
    **dict.fromkeys(
        ("scale_v_pred_loss_like_noise_pred", "v_pred_like_loss", "debiased_estimation_loss"),
        none("this weight of the loss; objective.min_snr_gamma is all there is"),
    ),
    "weighting_scheme": none("this draw of timesteps", off=(*OFF, "uniform")),
    "training_shift": none(
        "a shift of the levels; the model's scheduler says it", off=(1, 1.0, "1.0")
    ),
    "sample_prompts": To("sample.prompt_file", str),
    "sample_sampler": To(
        "sample.scheduler",
        each(
            {
                "ddim": "ddim",
                "euler": "euler",
                "k_euler": "euler",
                "euler_a": "euler_ancestral",
                "k_euler_a": "euler_ancestral",
                "dpmsolver++": "dpmpp_2m",
                "dpmsolver": "dpmpp_2m",
            }
        ),
    ),
    "sample_every_n_steps": _every("train.sample_every", "steps"),
    "sample_every_n_epochs": _every("train.sample_every", "epochs"),
    "sample_at_first": same("images are drawn at the start too"),
    "save_every_n_steps": _every("train.checkpoint_every", "steps"),
    "save_every_n_epochs": _every("train.checkpoint_every", "epochs"),
    "save_n_epoch_ratio": none("so many checkpoints of a run; set train.checkpoint_every"),
    **dict.fromkeys(("save_last_n_epochs", "save_last_n_steps"), _KEPT),
    **dict.fromkeys(
        (
            "save_last_n_epochs_state",
            "save_last_n_steps_state",
            "save_state",
            "save_state_on_train_end",
        ),
        _STATE,
    ),
    "save_model_as": none(
        "pickled files; exports are safetensors",
        off=(*OFF, "safetensors", "diffusers", "diffusers_safetensors"),
    ),
    "use_safetensors": same("exports are safetensors"),
    "save_precision": To(
        "export.precision", each({"fp16": "fp16", "bf16": "bf16", "float": "fp32"})
    ),
    "resume": none("another trainer's state; a run of ours resumes by itself"),
    **dict.fromkeys(
        ("skip_until_initial_step", "initial_epoch", "initial_step"), none("a resumed run's place")
    ),
    "validation_split": _kohya_data.data("validation_split", To("data.held_out", number)),
    "validate_every_n_steps": _every("train.held_out_every", "steps"),
    "validate_every_n_epochs": _every("train.held_out_every", "epochs"),
    "max_validation_steps": none("so many held-out batches"),
    "logging_dir": same("a run's folder holds its logs"),
    "log_with": _usual.report_to,
    "log_tracker_name": To("log.project", str),
    **dict.fromkeys(
        ("log_prefix", "log_tracker_config", "wandb_run_name", "wandb_api_key", "log_config"),
        _TRACKED,
    ),
    "metadata_*": none("a line of the file's metadata"),
    "training_comment": none("a line of the file's metadata"),
    "no_metadata": none("files without metadata"),
    "huggingface_*": _HUB,
    **dict.fromkeys(
        ("save_state_to_huggingface", "resume_from_huggingface", "async_upload"), _HUB
    ),
    **dict.fromkeys(
        ("ddp_timeout", "ddp_gradient_as_bucket_view", "ddp_static_graph"),
        same("of DDP; ours has its own"),
    ),
    "deepspeed": none("an engine by name: train.engine chooses"),
    "zero_stage": To(
        "train.engine", lambda value: {0: "ddp"}.get(whole(value), f"zero{whole(value)}")
    ),
    "config_file": same("given as a file"),
    "output_config": same("prints a config"),
    "debug_dataset": same("raytrain data preview shows the dataset"),
    "tokenizer_cache_dir": same("the hub's own cache"),
    **dict.fromkeys(
        ("clip_l", "clip_g", "t5xxl"),
        none("a text encoder of its own; put it into the model's folder"),
    ),
}
__all__ = ["ASSUMED", "RULES", "defaults", "read", "recognizes", "unet_rate"]
