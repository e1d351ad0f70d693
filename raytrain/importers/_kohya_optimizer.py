"""Keys of sd-scripts' optimizer, learning rates and schedule."""

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
    flag,
    none,
    norm,
    number,
    same,
    schedule,
    whole,
)


def _relative(asked: Asked) -> bool:
    """Return whether Adafactor finds its own rate."""
    return str(asked.of("optimizer_type")).lower() == "adafactor" and bool(
        _optimizers.parsed(asked.of("optimizer_args.relative_step") or True) is not False
        and asked.given.get("optimizer_args.relative_step") not in ("False", False)
    )


def _optimizer(value: Any, asked: Asked) -> Said:
    if str(value).lower() == "adafactor":
        return _optimizers.adafactor(_relative(asked))
    names = [key.partition(".")[2] for key in asked.given if key.startswith("optimizer_args.")]
    return _optimizers.chosen(value, names) if value else Said(note="set by another flag")


def _option(value: Any, asked: Asked) -> Said:
    name, optimizer = asked.key.partition(".")[2], asked.of("optimizer_type")
    if str(optimizer).lower() == "adafactor":
        return _optimizers.adafactor_option(name, value, _relative(asked))
    if not optimizer:
        optimizer = "adamw8bit" if asked.of("use_8bit_adam") else "lion"
    return _optimizers.option(name, value, optimizer)


def _rate(value: Any, asked: Asked) -> Said:
    if _relative(asked):
        return Said(note="no effect there: Adafactor's relative step takes a rate of its own")
    if asked.of("unet_lr") and asked.key == "learning_rate":
        return Said(note="unet_lr counts for the denoiser there")
    return Said({"train.learning_rate": number(value)})


def _schedule(value: Any, asked: Asked) -> Said:
    if _relative(asked):
        return Said(
            {"train.lr_schedule": "constant"}, note="Adafactor's relative step replaces it there"
        )
    return schedule(str(value), "lr_scheduler_num_cycles", "lr_scheduler_power")(value, asked)


def _warmup(value: Any, asked: Asked) -> Said:
    steps = number(value)
    share = isinstance(value, float) or "." in str(value)
    return Said({"train.warmup": f"{steps * 100:g} %" if share and steps < 1 else whole(value)})


RULES: Mapping[str, Rule] = {
    "learning_rate": _rate,
    "unet_lr": _rate,
    "learning_rate_te": none(
        "a text encoder that learns beside the denoiser, which only method `lora` has"
    ),
    "learning_rate_te1": none("a text encoder that learns beside the denoiser", off=(*OFF, 0.0)),
    "learning_rate_te2": none("a text encoder that learns beside the denoiser", off=(*OFF, 0.0)),
    "block_lr": none("a rate for each block"),
    "optimizer_type": _optimizer,
    "use_8bit_adam": lambda value, asked: _optimizers.chosen(
        "AdamW8bit" if flag(value) else "AdamW"
    ),
    "use_lion_optimizer": lambda value, asked: (
        _optimizers.chosen("Lion") if flag(value) else Said()
    ),
    "optimizer_args.*": _option,
    "fused_backward_pass": none("steps within the backward pass"),
    "fused_optimizer_groups": none("steps within the backward pass"),
    "lr_scheduler": _schedule,
    "lr_scheduler_type": none("a schedule's class of its own"),
    "lr_scheduler_args.*": none("an argument of a schedule"),
    "lr_scheduler_num_cycles": same("of lr_scheduler = cosine_with_restarts"),
    "lr_scheduler_power": same("of lr_scheduler = polynomial"),
    "lr_scheduler_timescale": none("of a schedule that is not here"),
    "lr_scheduler_min_lr_ratio": none("a least rate of the schedule"),
    "lr_decay_steps": none("of a schedule that is not here"),
    "lr_warmup_steps": _warmup,
    "max_grad_norm": To("train.max_grad_norm", norm),
}
