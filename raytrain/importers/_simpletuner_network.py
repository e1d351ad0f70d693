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


OPTIMIZERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    # weights in bf16 with stochastic rounding, as ours of train.param_dtype = "bf16"
    "adamw_bf16": ("adamw", {"param_dtype": "bf16", "epsilon": 1e-6}),
    "torch-adamw": ("adamw", {}),
    "optimi-adamw": ("adamw", {"betas": [0.9, 0.99], "epsilon": 1e-6, "weight_decay": 0.0}),
    "optimi-lion": ("lion", {"weight_decay": 0.0}),
    "bnb-adamw": ("adamw", {"epsilon": 1e-6}),
    "bnb-adamw8bit": ("adamw8bit", {"epsilon": 1e-6}),
    "bnb-adamw8bit-paged": ("paged_adamw8bit", {"epsilon": 1e-6}),
    "bnb-lion": ("lion", {"weight_decay": 0.0}),
    "bnb-lion8bit": ("bitsandbytes.optim.Lion8bit", {}),
    "bnb-lion8bit-paged": ("bitsandbytes.optim.PagedLion8bit", {}),
    "adamw_schedulefree": ("schedule_free", {}),
    "adamw_schedulefree+no_kahan": ("schedule_free", {"weight_decay": 1e-3, "epsilon": 1e-6}),
    "adamw_schedulefree+aggressive": ("schedule_free", {"weight_decay": 1e-3, "epsilon": 1e-6}),
}
"""Their name -> ours, and what their class is given unless told otherwise."""
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
    if value == "prodigy":
        return Said(
            _unless_set(asked, "prodigy", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
            missing="averaged weights and a factored state (Prodigy-plus-schedule-free)",
        )
    if str(value) not in OPTIMIZERS:
        return Said(missing=f"the optimizer {value}; see train.optimizer")
    name, settings = OPTIMIZERS[str(value)]
    return Said(_unless_set(asked, name, settings))


def _unless_set(asked: Asked, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's settings, without those that other keys set."""
    taken = {
        "epsilon": "optimizer_config.eps",
        "weight_decay": "optimizer_config.weight_decay",
        "betas": "optimizer_beta1",
    }
    free = {key: each for key, each in settings.items() if taken.get(key) not in asked.given}
    return {"train.optimizer": name, **{f"train.{key}": each for key, each in free.items()}}


def _option(value: Any, asked: Asked) -> Said:
    name = OPTIMIZERS.get(str(asked.of("optimizer")), ("prodigy", {}))[0]
    return _optimizers.option(asked.key.partition(".")[2], value, name)


def _betas(value: Any, asked: Asked) -> Said:
    first, second = asked.of("optimizer_beta1"), asked.of("optimizer_beta2")
    return Said({"train.betas": [number(first), number(second)]})


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
    "optimizer_config": same("no arguments"),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "adam_epsilon", "adam_weight_decay"),
        same("no effect there without DeepSpeed"),
    ),
    "optimizer_beta1": _betas,
    "optimizer_beta2": _betas,
    "optimizer_config.*": _option,
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
