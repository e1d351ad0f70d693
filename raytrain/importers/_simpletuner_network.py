"""Keys of SimpleTuner's method, and of its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers import _optimizers
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
    schedule,
    whole,
)

_ALGORITHMS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}


_WHOLE = 10_000
"""LyCORIS takes whole matrices from this rank on, at scale 1."""


def _method(asked: Asked) -> str:
    if asked.of("model_type") == "full":
        return "controlnet" if flag(asked.of("controlnet") or False) else "full"
    return _ALGORITHMS.get(str(asked.of("lycoris.algo") or "lora"), "lora")


def _type(value: Any, asked: Asked) -> Said:
    settings = {"method.name": _method(asked)}
    if value not in ("lora", "full"):
        return Said(settings, missing=f"model_type = {value}")
    if value == "lora" and flag(asked.of("controlnet") or False):
        return Said(
            settings, missing="a LoRA as ControlNet; method `controlnet` trains a whole branch"
        )
    return Said(settings)


def _rank(value: Any, asked: Asked) -> Said:
    return Said({"method.rank": whole(value)} if asked.of("model_type") == "lora" else {})


def _alpha(value: Any, asked: Asked) -> Said:
    return Said(
        {"method.alpha": number(value)} if value and asked.of("model_type") == "lora" else {}
    )


def _lora_type(value: Any, asked: Asked) -> Said:
    if value == "lycoris" and not any(key.startswith("lycoris.") for key in asked.given):
        return Said(missing="what lycoris_config.json says; give that file too")
    return Said()


def _lycoris(value: Any, asked: Asked) -> Said:
    name = asked.key.partition(".")[2]
    full = whole(asked.of("lycoris.linear_dim") or 0) >= _WHOLE
    if name == "algo":
        known = value in _ALGORITHMS
        return Said(
            {"method.name": _method(asked)}, missing="" if known else f"the algorithm {value}"
        )
    if name == "linear_dim":
        return Said(
            {
                "method.rank": whole(value),
                **({"method.alpha": float(whole(value))} if full else {}),
            }
        )
    if name == "linear_alpha":
        note = "no effect there: whole matrices have scale 1"
        return Said(note=note) if full else Said({"method.alpha": number(value)})
    if name == "factor":
        return Said({"method.factor": whole(value)} if whole(value) > 0 else {})
    if name == "apply_preset.target_module":
        known = value == ["Attention"]
        return Said(
            {"method.targets": ["to_q", "to_k", "to_v", "to_out.0"]} if known else {},
            missing="" if known else f"the modules {value}; name layers in method.targets",
        )
    if name.startswith("apply_preset.module_algo_map.") and name.endswith(".factor"):
        alike = value == asked.of("lycoris.factor")
        return Said(note="as factor") if alike else Said(missing="a factor for one kind of layer")
    return (
        none("an argument of LyCORIS", off=(*OFF, 1, 1.0))(value, asked)
        if name != "bypass_mode"
        else Said(note="how the same sum is made")
    )


def _optimizer(value: Any, asked: Asked) -> Said:
    name = str(value)
    if name == "adamw_bf16":
        # weights in bf16 with stochastic rounding, which are ours for param_dtype = "bf16"
        return Said(
            {"train.optimizer": "adamw", "train.param_dtype": "bf16", "train.epsilon": 1e-6}
        )
    if name.startswith("adamw_schedulefree"):
        decay, eps = (1e-2, 1e-8) if name == "adamw_schedulefree" else (1e-3, 1e-6)
        return Said(
            {"train.optimizer": "schedule_free", "train.weight_decay": decay, "train.epsilon": eps}
        )
    if name == "optimi-adamw":
        return Said({"train.optimizer": "adamw", "train.betas": [0.9, 0.99], "train.epsilon": 1e-6,
                     "train.weight_decay": 0.0})  # fmt: skip
    if name == "torch-adamw":
        return Said({"train.optimizer": "adamw"})
    if name in ("prodigy", "bnb-adamw8bit", "bnb-lion8bit", "bnb-adamw8bit-paged"):
        found = {"bnb-adamw8bit-paged": "pagedadamw8bit"}.get(name, name.removeprefix("bnb-"))
        return _optimizers.chosen(found)
    return Said(missing=f"the optimizer {name}; see train.optimizer")


def _clip(value: Any, asked: Asked) -> Said:
    limit = asked.of("max_grad_norm")
    if value == "norm":
        return Said({"train.max_grad_norm": number(2.0 if limit is None else limit) or 1e9})
    return Said(
        {"train.max_grad_norm": 1e9},
        missing=f"gradients cut number by number at {limit or 2.0}; ours limits their norm",
    )


def _lr_end(value: Any, asked: Asked) -> Said:
    if asked.of("lr_scheduler") in ("polynomial", "cosine", "cosine_with_restarts"):
        return Said(missing=f"a schedule that ends at {value}; ours ends at 0")
    return Said(note="no effect there: the schedule is constant")


def _text(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    return Said({"method.text_rank": whole(asked.of("lora_rank"))})


RULES: Mapping[str, Rule] = {
    "model_type": _type,
    "controlnet": same("of model_type"),
    "learning_rate": To("train.learning_rate", number),
    "text_encoder_lr": none("a rate of text encoders; see method.text_rate"),
    "train_text_encoder": _text,
    "lr_scheduler": lambda value, asked: schedule(str(value), "lr_num_cycles", "lr_power")(
        value, asked
    ),
    "lr_warmup_steps": To("train.warmup", whole),
    "lr_num_cycles": same("of lr_scheduler = cosine_with_restarts"),
    "lr_power": same("of lr_scheduler = polynomial"),
    "lr_end": _lr_end,
    "lr_scale": none("a rate scaled by the batch; write the product"),
    "optimizer": _optimizer,
    "optimizer_config": none("arguments of the optimizer; see train.optimizer_options"),
    "adam_beta1": lambda value, asked: Said(
        {"train.betas": [number(value), number(asked.of("adam_beta2") or 0.999)]}
    ),
    "adam_beta2": lambda value, asked: Said(
        {"train.betas": [number(asked.of("adam_beta1") or 0.9), number(value)]}
    ),
    "adam_epsilon": To("train.epsilon", number),
    "adam_weight_decay": To("train.weight_decay", number),
    "max_grad_norm": lambda value, asked: Said(note="of grad_clip_method"),
    "grad_clip_method": _clip,
    "lora_type": _lora_type,
    "lora_rank": _rank,
    "lora_alpha": _alpha,
    "lora_dropout": none(
        "dropout in adapters; it would draw numbers that belong to a worker, not to a row",
        off=(*OFF, 0.0),
    ),
    "lora_init_type": To("method.init", each({"default": "kaiming", "gaussian": "gaussian"})),
    "use_dora": To("method.dora", flag),
    "peft_lora_target_modules": To("method.targets", listed),
    "init_lora": none("starting from a trained LoRA"),
    "init_lokr_norm": none("small noise at LoKr's start"),
    "lora_format": same("raytrain export writes every format that can hold it"),
    "lycoris_config": same("of lora_type = lycoris"),
    "lycoris.*": _lycoris,
}
