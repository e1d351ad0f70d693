"""Any `torch.optim.Optimizer` class by its dotted path, such as `torch.optim.SGD` or
`pytorch_optimizer.Adan`.

Its options are its constructor's arguments. Before a run it must show on two small weights that it
takes them, and that it continues from a saved state bit for bit.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from functools import cache
from types import ModuleType
from typing import Any

import torch
from pydantic import create_model
from torch import Tensor
from torch.nn import Parameter

from raytrain.config import TrainConfig
from raytrain.errors import UserError, unknown
from raytrain.optimizers import ARGUMENTS, Facts, Groups, _state
from raytrain.table import Table

USUAL_BYTES = 8
"""Assumed of a class whose state cannot be measured without options: AdamW's."""
SHAPES = ((64, 64), (32, 48))
"""Of the weights a class is tried on: matrices, which every class takes
(Muon takes nothing else)."""


@cache
def find(path: str) -> Outside | None:
    """Return what stands for the class at a dotted path, None where it is a module;
    UserError where there is neither."""
    package, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or not package.startswith(error.name):
            raise
        raise UserError(
            f"train.optimizer = {path!r} must be a torch.optim.Optimizer class that can be "
            f"imported, but no module {error.name!r} is installed. Install it or correct the name."
        ) from error
    found = getattr(module, name, None)
    if isinstance(found, ModuleType) or (
        hasattr(module, "__path__") and importlib.util.find_spec(path)
    ):
        return None
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return Outside(path, found)
    raise unknown(f"optimizer class of {package}", name, _classes(module))


def _classes(module: ModuleType) -> list[str]:
    found = vars(module).items()
    return [
        name
        for name, each in found
        if isinstance(each, type) and issubclass(each, torch.optim.Optimizer)
    ]


class Outside:
    """A plug-in (`raytrain.optimizers.Plugin`) made of a class."""

    def __init__(self, path: str, kind: type[torch.optim.Optimizer]) -> None:
        self.path, self.kind = path, kind
        _, *parameters = list(
            inspect.signature(kind).parameters.values()
        )  # the first takes the weights
        several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        named = {each.name: each.default for each in parameters if each.kind not in several}
        defaults = {
            key: named.pop(name)
            for key, name in ARGUMENTS.items()
            if _fits(key, named.get(name, ...))
        }
        if "learning_rate" not in defaults:
            raise UserError(
                f"train.optimizer = {path!r} takes no `lr`, so it cannot follow train.lr_schedule."
                " Use another optimizer."
            )
        if not isinstance(defaults["learning_rate"], float | int):
            defaults["learning_rate"] = TrainConfig.model_fields["learning_rate"].default
        empty = inspect.Parameter.empty
        fields: dict[str, Any] = {
            name: (Any, None if value is empty else value) for name, value in named.items()
        }
        self.Options: type[Table] = create_model("Options", __base__=Table, **fields)
        averages = hasattr(kind, "train") and hasattr(kind, "eval")
        self.FACTS = Facts(
            defaults=defaults,
            bytes=self._bytes(),
            group_rates=self._has_group_rates(),
            averages=averages,
        )

    def build(
        self, groups: Groups, arguments: dict[str, Any], config: TrainConfig
    ) -> torch.optim.Optimizer:
        """Return the optimizer; UserError where it cannot train these weights."""
        try:
            return self._made(groups, arguments)
        except (TypeError, ValueError) as error:  # such as Muon's, which takes matrices alone
            raise UserError(
                f"train.optimizer = {self.path!r} cannot train these weights: {error}."
            ) from error

    def prove(self, arguments: dict[str, Any]) -> None:
        """Raise UserError unless the class takes these arguments,
        steps without further arguments and continues from a saved state."""
        try:
            weights, optimizer = self._stepped(arguments, seed=0)
            saved = {name: value.clone() for name, value in _state.tensors(optimizer, weights)}
            again = {name: Parameter(weight.detach().clone()) for name, weight in weights.items()}
            resumed = self._made(_groups(again), arguments)
            _state.load(resumed, again, saved)
            _step(weights, optimizer, seed=1)
            _step(
                again, resumed, seed=2
            )  # an optimizer that draws global random numbers goes other ways
        except UserError as error:
            raise UserError(f"train.optimizer = {self.path!r}: {error}") from error
        except Exception as error:
            # another project's code: whatever it raises says that it cannot be used like this
            raise UserError(
                f"train.optimizer = {self.path!r} with {arguments} cannot take a step on two "
                f"small weights: {type(error).__name__}: {error}. Correct "
                "train.optimizer_options, or use another optimizer."
            ) from error
        if any(not torch.equal(weight, again[name]) for name, weight in weights.items()):
            raise UserError(
                f"train.optimizer = {self.path!r} keeps something outside of its state, or draws "
                "global random numbers: a run resumed from a checkpoint would take other "
                "steps than an unbroken one. Use another optimizer."
            )

    def _bytes(self) -> float:
        try:
            weights, optimizer = self._stepped({}, seed=0)
        except (
            Exception
        ):  # it needs options, which `prove` has; this is for the estimate of memory alone
            return USUAL_BYTES
        state = [
            value
            for each in optimizer.state.values()
            for value in each.values()
            if isinstance(value, Tensor)
        ]
        return sum(value.nbytes for value in state) / sum(
            weight.numel() for weight in weights.values()
        )

    def _has_group_rates(self) -> bool:
        """Return whether a lower learning rate of the last group changes its step."""
        try:
            ends = [self._stepped({}, seed=0, factor=factor)[0] for factor in (1.0, 0.5)]
        except Exception:  # it needs options, or says that it has one rate for all
            return False
        return not torch.equal(*(list(weights.values())[-1] for weights in ends))

    def _stepped(
        self, arguments: dict[str, Any], seed: int, factor: float = 1.0
    ) -> tuple[dict[str, Parameter], torch.optim.Optimizer]:
        generator = torch.Generator().manual_seed(0)
        weights = {
            str(shape): Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES
        }
        optimizer = self._made(_groups(weights), arguments)
        optimizer.param_groups[-1]["lr"] *= factor
        for step in range(2):
            _step(weights, optimizer, seed + step)
        return weights, optimizer

    def _made(self, groups: Groups, arguments: dict[str, Any]) -> torch.optim.Optimizer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = self.kind(groups, **arguments)
        if hasattr(optimizer, "train"):
            optimizer.train()
        return optimizer


def _fits(key: str, default: Any) -> bool:
    """Return whether a constructor's argument means the same as the config's key."""
    if key == "betas":
        return isinstance(default, tuple) and len(default) == 2
    if key == "learning_rate":
        return default is not ...
    return isinstance(default, float | int)


def _groups(weights: dict[str, Parameter]) -> Groups:
    return [{"params": [weight]} for weight in weights.values()]


def _step(weights: dict[str, Parameter], optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Step along gradients that depend on the weights alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for weight in weights.values():
            weight.grad = weight.detach().sin()
        optimizer.step()
