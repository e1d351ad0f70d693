"""Optimizers: one file a choice, with the members of `Plugin` below;
or the dotted path of any `torch.optim.Optimizer` class.

    [train]
    optimizer = "prodigy"                     # or "torch.optim.SGD", "pytorch_optimizer.Adan"
    optimizer_options = {d_coef = 2.0}

Files import no torch until they build, so that a config is checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from raytrain import plugins
from raytrain.errors import UserError, nearest
from raytrain.table import Table

if TYPE_CHECKING:
    import torch

    from raytrain.config import TrainConfig

ARGUMENTS = {
    "learning_rate": "lr",
    "betas": "betas",
    "epsilon": "eps",
    "weight_decay": "weight_decay",
}
"""Keys of [train] that several optimizers take, and what their classes call them."""
Groups = list[dict[str, Any]]
"""Parameter groups as `torch.optim.Optimizer` takes them."""


@dataclass(frozen=True)
class Facts:
    """What config, plan and engines must know of an optimizer without building it."""

    defaults: Mapping[str, Any]
    """The keys of `ARGUMENTS` that it takes, with the values of a config that sets none."""
    bytes: float
    """Of state for each float32 weight."""
    shards: tuple[str, ...] = ()
    """States that are shaped as the weights and updated element by element,
    so that ZeRO may cut them; none: it may not."""
    roundings: tuple[str, ...] = ("nearest",)
    """Values of `train.rounding` that it knows for bf16 weights."""
    contiguous: bool = False
    """Its state belongs to stretches of memory (8-bit blocks),
    so weights must not be channels_last."""
    paged: bool = False
    """On a GPU its state moves to the host where memory is full."""
    group_rates: bool = True
    """Parameter groups may have different learning rates."""
    averages: bool = False
    """Trains other weights than those for inference; has `train()` and `eval()` that switch."""


@dataclass(frozen=True)
class Group:
    """How the weights of one name prefix are trained, where it is not as all others."""

    rate: float = 1.0
    """Factor on the learning rate."""
    weight_decay: float | None = None
    """None: that of [train]."""
    freeze_after: int | None = None
    """Steps after which they change no more; None: never."""


class Plugin(Protocol):
    """What a file in `raytrain/optimizers` offers."""

    Options: type[Table]
    """The table of `train.optimizer_options`."""
    FACTS: Facts

    def build(
        self, groups: Groups, arguments: dict[str, Any], config: TrainConfig
    ) -> torch.optim.Optimizer:
        """Return the optimizer; `arguments` are the class's: `lr` and what else of `ARGUMENTS` it
        takes, and options."""


def load(name: str) -> Plugin:
    """Return an optimizer's file, or what stands for one where `name` is the dotted path of a
    class."""
    if "." not in name:
        if name not in (files := plugins.names("optimizers")):
            guess = f" Did you mean {near!r}?" if (near := nearest(name, files)) else ""
            raise UserError(
                f"train.optimizer = {name!r} does not exist.{guess} Allowed: {', '.join(files)}, "
                'or the dotted path of a torch.optim.Optimizer class, such as "torch.optim.SGD".'
            )
        return cast(Plugin, plugins.load("optimizers", name))
    from raytrain.optimizers import _outside

    found = _outside.find(name)
    return cast(Plugin, plugins.load("optimizers", name)) if found is None else found


def facts(name: str) -> Facts:
    """Return what is known of an optimizer."""
    return load(name).FACTS


def defaults(name: str) -> dict[str, Any]:
    """Return the keys of `ARGUMENTS` with an optimizer's own values,
    None of those it does not take."""
    return {**dict.fromkeys(ARGUMENTS), **facts(name).defaults}


def check(config: TrainConfig) -> None:
    """Raise UserError unless the optimizer takes what a config gives it."""
    name, plugin = config.optimizer, load(config.optimizer)
    facts, given = plugin.FACTS, f"train.optimizer = {config.optimizer!r}"
    for key in ARGUMENTS:
        value = getattr(config, key)
        if value is not None and key not in facts.defaults:
            raise UserError(
                f"train.{key} = {value!r} would have no effect: of {', '.join(ARGUMENTS)} the "
                f"optimizer {name!r} takes {', '.join(facts.defaults)}. Leave it out."
            )
    if config.engine.startswith("zero") and not facts.shards:
        raise UserError(
            f"{given} cannot be cut into ZeRO shards, got train.engine = {config.engine!r}. "
            'Use engine = "ddp" or "plain", or optimizer = "adamw".'
        )
    if facts.averages and config.ema is not None:
        raise UserError(
            f"{given} averages the weights itself, got train.ema = {config.ema:g}. Leave ema out."
        )
    if config.param_dtype == "bf16" and config.rounding not in facts.roundings:
        raise UserError(
            f"{given} rounds to the nearest bf16 number itself, got train.rounding = "
            f'{config.rounding!r}. Use optimizer = "adamw", or rounding = "nearest" if small '
            "steps may be lost."
        )
    plugins.check_table(
        plugin.Options, f"optimizer {name!r}", config.optimizer_options, "train.optimizer_options"
    )
    if prove := getattr(plugin, "prove", None):
        prove(arguments(config))


def arguments(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of a config's optimizer class."""
    plugin = load(config.optimizer)
    given = {ARGUMENTS[key]: getattr(config, key) for key in plugin.FACTS.defaults}
    return given | plugin.Options(**config.optimizer_options).model_dump(exclude_unset=True)


def build(
    named: Mapping[str, torch.nn.Parameter],
    config: TrainConfig,
    groups: Mapping[str, Group] | None = None,
) -> torch.optim.Optimizer:
    """Return a config's optimizer of named weights, with one parameter group for each of
    `grouped`."""
    plugin = load(config.optimizer)
    made: Groups = []
    for group, weights in grouped(named, groups or {}):
        entry: dict[str, Any] = {"params": list(weights.values())}
        decays = "weight_decay" in plugin.FACTS.defaults
        if group.weight_decay and not decays:
            raise UserError(
                f"optimizer {config.optimizer!r} has no weight decay, so {next(iter(weights))!r} "
                f"cannot have {group.weight_decay:g}. Use another optimizer."
            )
        if group.weight_decay is not None and decays:
            entry["weight_decay"] = group.weight_decay
        if group.rate != 1 and not plugin.FACTS.group_rates:
            raise UserError(
                f"optimizer {config.optimizer!r} finds one learning rate for all weights, so "
                f"{next(iter(weights))!r} cannot have {group.rate:g} times that of others. Use "
                "another optimizer, or the factor 1."
            )
        made.append(entry)
    return plugin.build(made, arguments(config), config)


def grouped(
    named: Mapping[str, torch.nn.Parameter], groups: Mapping[str, Group]
) -> list[tuple[Group, dict[str, torch.nn.Parameter]]]:
    """Return each group with its weights: those of the longest prefix of their name, and last,
    by default, those of none."""
    found: dict[str, dict[str, torch.nn.Parameter]] = {prefix: {} for prefix in (*groups, "")}
    for name, weight in named.items():
        found[max((prefix for prefix in found if name.startswith(prefix)), key=len)][name] = weight
    if empty := [prefix for prefix in groups if not found[prefix]]:
        raise UserError(
            f"no trainable weight's name starts with {empty[0]!r}, so its learning rate would "
            "have no effect."
        )
    return [(groups.get(prefix, Group()), weights) for prefix, weights in found.items() if weights]
