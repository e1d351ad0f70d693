"""Optimizers by the names that trainers give them, with their classes' own defaults."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from typing import Any

from raytrain import optimizers, plugins
from raytrain.errors import UserError
from raytrain.importers._rules import Said, number

_OURS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "adamw": ("adamw", {}),
    "adamw8bit": ("adamw8bit", {}),
    "pagedadamw8bit": ("paged_adamw8bit", {}),
    # lion_pytorch, prodigyopt and schedulefree decay by 0 unless asked
    "lion": ("lion", {"train.weight_decay": 0.0}),
    "prodigy": ("prodigy", {"train.weight_decay": 0.0}),
    "adamwschedulefree": ("schedule_free", {"train.weight_decay": 0.0}),
    "adam": ("torch.optim.Adam", {}),
    "adagrad": ("torch.optim.Adagrad", {}),
    "lion8bit": ("bitsandbytes.optim.Lion8bit", {}),
    "pagedlion8bit": ("bitsandbytes.optim.PagedLion8bit", {}),
    "adam8bit": ("bitsandbytes.optim.Adam8bit", {}),
    "ademamix8bit": ("bitsandbytes.optim.AdEMAMix8bit", {}),
    "pagedadamw": ("bitsandbytes.optim.PagedAdamW", {}),
    "pagedadamw32bit": ("bitsandbytes.optim.PagedAdamW32bit", {}),
    "sgdnesterov": (
        "torch.optim.SGD",
        {"train.optimizer_options.nesterov": True, "train.optimizer_options.momentum": 0.9},
    ),
}
"""Lower-case name -> ours, and what must be set so that it is theirs."""
TRANSFORMERS_ADAFACTOR = "transformers.optimization.Adafactor"
_KEYS = {"weight_decay": "weight_decay", "betas": "betas", "eps": "epsilon"}


def chosen(name: Any, options: Iterable[str] = ()) -> Said:
    """Return the settings of an optimizer by its name, in any case, or its dotted path; `options`
    are the arguments of its class that are set elsewhere."""
    known = _OURS.get(str(name).lower())
    if known:
        ours, settings = known
        unset = {
            key: value for key, value in settings.items() if key.rpartition(".")[2] not in options
        }
        return Said({"train.optimizer": ours, **unset})
    path = str(name) if "." in str(name) else f"torch.optim.{name}"
    try:
        optimizers.load(path)
    except UserError as error:
        return Said(missing=f"the optimizer {name!r}: {error}")
    return Said({"train.optimizer": path})


def adafactor(relative: bool) -> Said:
    """Return the settings of transformers' Adafactor.

    With its relative step, the default, it takes min(1e-2, 1 / sqrt(step)) times a weight's root
    mean square, which is PyTorch's Adafactor with a learning rate of 1e-2; without, that class
    itself.
    """
    if relative:
        return Said({"train.optimizer": "adafactor", "train.learning_rate": 1e-2})
    return Said(
        {
            "train.optimizer": TRANSFORMERS_ADAFACTOR,
            "train.optimizer_options.relative_step": False,
        }
    )


def option(name: str, value: Any, optimizer: Any) -> Said:
    """Return the setting of an argument of an optimizer's class."""
    own = optimizer in plugins.names("optimizers")
    ours = optimizer if own else chosen(optimizer).settings.get("train.optimizer", "adamw")
    plugin = optimizers.load(ours)
    read = parsed(value)
    key = _KEYS.get(name)
    if key in plugin.FACTS.defaults:
        return Said({f"train.{key}": list(read) if isinstance(read, tuple) else number(read)})
    if name in plugin.Options.model_fields:
        return Said(
            {f"train.optimizer_options.{name}": list(read) if isinstance(read, tuple) else read}
        )
    return Said(missing=f"the optimizer {ours!r} has no {name!r}")


def adafactor_option(name: str, value: Any, relative: bool) -> Said:
    """Return the setting of an argument of transformers' Adafactor."""
    if not relative:
        return option(name, value, TRANSFORMERS_ADAFACTOR)
    ours = {"clip_threshold": "d", "decay_rate": "beta2_decay"}.get(name)
    if ours:
        return Said({f"train.optimizer_options.{ours}": number(value)})
    if parsed(value) == {"relative_step": True, "scale_parameter": True, "warmup_init": False}.get(
        name
    ):
        return Said(note="as here")
    return option(name, value, "adafactor")


def parsed(value: Any) -> Any:
    """Read a Python literal where text is one."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
