"""The search space: dotted config keys with ranges, turned into Optuna's distributions and back
into configs.

    [tune.space]
    "train.learning_rate" = {log = [1e-5, 1e-2]}
    "method.rank" = {choice = [4, 8, 16]}

Imports no torch, and `check` tries the bounds of every range before an accelerator is held.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytrain import optimizers
from raytrain.config import Config
from raytrain.config.file import parse, set_key
from raytrain.config.tune import Dimension
from raytrain.errors import UserError, unknown


def distributions(config: Config) -> dict[str, BaseDistribution]:
    """Return Optuna's distribution of every searched key."""
    return {key: _distribution(dimension) for key, dimension in config.tune.space.items()}


def apply(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Return the config with values for dotted keys put in, checked again as a whole."""
    tree, known = config.values(), config.values()
    if "train.optimizer" in parameters:
        own = optimizers.defaults(config.train.optimizer)
        for key in [key for key in own if getattr(config.train, key) == own[key]]:
            del tree["train"][
                key
            ]  # the base config's optimizer wants it so; another has values of its own
    for key, value in parameters.items():
        _value_of(known, key)
        set_key(tree, key, value)
    wanted = ", ".join(f"{key} = {value!r}" for key, value in parameters.items())
    return parse(tree, where=f"tune.space with {wanted}")


def check(config: Config) -> None:
    """Raise UserError unless every key exists and every bound and choice gives a valid config."""
    if not config.tune.space:
        raise UserError(
            "tune.space is empty, so there is nothing to search; add at least one key with its "
            "range."
        )
    tree = config.values()
    corners: list[dict[str, Any]] = [{}, {}]
    for key, dimension in config.tune.space.items():
        if isinstance(_value_of(tree, key), dict):
            inside = [name for name, _ in _leaves(_value_of(tree, key), f"{key}.")]
            raise UserError(
                f"tune.space: {key!r} is a table; search one of its keys: {', '.join(inside)}."
            )
        values = _extremes(dimension)
        for value in values:
            apply(config, {key: value})
        corners[0][key], corners[1][key] = values[0], values[-1]
    for corner in corners:
        apply(config, corner)


def default_parameters(config: Config) -> dict[str, Any]:
    """Return the config's present values of the searched keys;
    a value outside its range is left out."""
    tree = config.values()
    found = {key: _value_of(tree, key) for key in config.tune.space}
    return {key: value for key, value in found.items() if _contains(config.tune.space[key], value)}


def notes(config: Config) -> tuple[str, ...]:
    """Return what to know of the search: the config as it stands is no trial where one of its
    values lies outside its range."""
    if not config.tune.include_default:
        return ()
    tree, inside = config.values(), default_parameters(config)
    return tuple(
        f"tune.include_default has no effect: {key} = {_value_of(tree, key)!r} lies outside its "
        "range in tune.space, so the config as it stands is no trial"
        for key in config.tune.space
        if key not in inside
    )


def encode(config: Config, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as the study stores them: a list or table among the choices becomes its
    JSON text."""
    return {key: _stored(config.tune.space[key], value) for key, value in parameters.items()}


def decode(config: Config, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config values of parameters that came from the study."""
    return {key: _restored(config.tune.space[key], value) for key, value in stored.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.log is not None:
        return FloatDistribution(*dimension.log, log=True)
    if dimension.linear is not None:
        return FloatDistribution(*dimension.linear)
    if dimension.int is not None:
        return IntDistribution(*dimension.int)
    return CategoricalDistribution([_text(value) for value in _choices(dimension)])


def _extremes(dimension: Dimension) -> list[Any]:
    return list(dimension.log or dimension.linear or dimension.int or _choices(dimension))


def _choices(dimension: Dimension) -> tuple[Any, ...]:
    if not dimension.choice:
        raise UserError("tune.space: a choice needs at least one value.")
    return dimension.choice


def _contains(dimension: Dimension, value: Any) -> bool:
    if dimension.choice is not None:
        return any(_same(value, choice) for choice in dimension.choice)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = _extremes(dimension)
    return bool(low <= value <= high)


def _stored(dimension: Dimension, value: Any) -> Any:
    return value if dimension.choice is None else _text(value)


def _restored(dimension: Dimension, value: Any) -> Any:
    if dimension.choice is None:
        return value
    return next((choice for choice in dimension.choice if _same(_text(choice), value)), value)


def _text(value: Any) -> Any:
    return (
        value
        if isinstance(value, str | int | float | bool | None)
        else json.dumps(value, sort_keys=True)
    )


def _same(one: Any, other: Any) -> bool:
    """Equal and of one kind: Python calls True equal to 1, a config does not."""
    return bool(_text(one) == _text(other)) and isinstance(one, bool) == isinstance(other, bool)


def _value_of(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for name in key.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise unknown("tune.space key", key, _searchable(tree))
        value = value[name]
    return value


def _searchable(tree: Mapping[str, Any]) -> list[str]:
    tables = ("train", "method", "objective", "model", "sample", "evaluate")
    return [key for key, _ in _leaves(tree) if key.split(".")[0] in tables or key == "seed"]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
