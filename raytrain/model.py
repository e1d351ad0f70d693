"""What trains: a model of named parts, all that engines, checkpoints, averages,
self-tests and plans see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from raytrain import families, methods, pretrained, rng
from raytrain.batch import Batch, Columns
from raytrain.config import Config, MethodConfig
from raytrain.errors import UserError
from raytrain.methods import Method
from raytrain.methods._adapter import ADAPTER
from raytrain.objective import Objective


class Model(nn.Module):
    """Parts by the names of their diffusers folders, of which some weights learn.

    Its forward pass is the loss. DDP and ZeRO wrap one module and allow one forward pass; so this
    is the module that an engine wraps.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        method: Method,
        objective: Objective,
        config: MethodConfig,
    ) -> None:
        """Take the parts as the method builds them."""
        super().__init__()
        self.parts: Any = nn.ModuleDict(parts)
        self.method, self.objective, self.config = method, objective, config

    @property
    def denoiser(self) -> nn.Module:
        """The part that predicts."""
        found: nn.Module = self.parts[families.denoiser(self.objective.family)]
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that training reads, in order."""
        own = self.method.columns(self.objective.family, self.config)
        return tuple(sorted({*own, "mask"} if self.objective.masked else {*own}))

    def draw(self, batch: Batch, objective: Objective | None = None) -> Columns:
        """Draw what the rows of a batch need, each from its own streams."""
        objective = objective or self.objective
        return rng.draw(self.method.draws(objective, batch, self.config), objective.seed, batch)

    def forward(self, batch: Batch, draws: Columns) -> Tensor:
        """Return each row's weighted loss, (n,) float32; batch and draws are on the model's
        device."""
        return self.losses(batch, draws)

    def losses(self, batch: Batch, draws: Columns, objective: Objective | None = None) -> Tensor:
        """Return each row's loss by this objective or another, (n,) float32."""
        return self.method.losses(
            objective or self.objective, self.parts, batch, draws, self.config
        )

    def learning(self) -> dict[str, nn.Parameter]:
        """Return the weights that learn by public name, `<part>.<path>`."""
        return {
            public_name(name): weight
            for name, weight in self.named_parameters()
            if weight.requires_grad
        }

    def state(self) -> dict[str, Tensor]:
        """Return what learns, by public name: all that a checkpoint holds of the weights."""
        return {name: weight.detach() for name, weight in self.learning().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put such a state back; UserError unless it matches exactly."""
        own = self.learning()
        if own.keys() != tensors.keys() or any(
            own[k].shape != v.shape for k, v in tensors.items()
        ):
            raise UserError(
                f"The checkpoint's weights do not fit this model: {_difference(own, tensors)}. "
                "What the method trains or the base differs from what they were trained with. Use "
                "the config stored next to the checkpoint."
            )
        for name, tensor in tensors.items():
            own[name].data.copy_(tensor)

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them
        (Chen et al. 2016, arXiv:1604.06174).

        transformers does so in training mode alone, whose dropout must not come with it: its
        outermost blocks, which have none of their own, are put into it, and nothing in them.
        """
        from transformers.modeling_layers import GradientCheckpointingLayer

        for name, part in self.parts.items():
            enable = getattr(part, "enable_gradient_checkpointing", None) or getattr(
                part, "gradient_checkpointing_enable", None
            )
            if enable is None:
                raise UserError(
                    f"train.gradient_checkpointing = true, but the part {name!r} "
                    f"({type(part).__name__}) cannot recompute its activations; it would take as "
                    "much memory as without. Set it to false."
                )
            enable()
            for block in part.modules():
                block.training = isinstance(block, GradientCheckpointingLayer)


def build(
    config: Config,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    load: Callable[[str], Any] | None = None,
) -> Model:
    """Return the model a config trains, on a device, as it is before its first step;
    `load` gives a frozen base part."""
    family, method = families.load(config.model.family), methods.load(config.method)
    objective = Objective.of(config, device)
    load = load or partial(_frozen, family, config, dtype)
    parts = method.build(load, family, config.method, config.seed)
    return Model(parts, method, objective, config.method).to(device)


def base_hash(config: Config) -> str:
    """Return the content hash of the base weights that a step computes with: the denoiser's, and
    the text encoders' where a method reads token ids."""
    family, method = families.load(config.model.family), methods.load(config.method)
    texts = "tokens" in method.columns(family, config.method)
    own = families.text_parts(family, "text") if texts else ()
    return pretrained.hash_of(config.model, (families.denoiser(family), *own))


def public_name(name: str) -> str:
    """Turn a parameter's name in a model into its name in checkpoints.

    >>> public_name("parts.unet.conv_in.lora_A.default.weight")
    'unet.conv_in.lora_A.weight'
    """
    return name.removeprefix("parts.").replace(f".{ADAPTER}.", ".").removesuffix(f".{ADAPTER}")


def _frozen(family: Any, config: Config, dtype: torch.dtype, part: str) -> Any:
    if config.model.weights == "random" and part == families.denoiser(family):
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            return pretrained.skeleton(config.model, part).to(dtype).eval().requires_grad_(False)
    loaded = family.load(config.model, part, dtype)
    return loaded.eval().requires_grad_(False) if isinstance(loaded, nn.Module) else loaded


def _difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    for name in sorted(own.keys() | given.keys()):
        if name not in given:
            return f"{name!r} is not in it"
        if name not in own:
            return f"it has {name!r}, which does not learn here"
        if own[name].shape != given[name].shape:
            return (
                f"{name!r} is {tuple(given[name].shape)} in it and {tuple(own[name].shape)} here"
            )
    return "names differ"
