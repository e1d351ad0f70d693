"""ControlNet: a trainable copy of the denoiser's encoder that reads a control image
(Zhang et al. 2023, arXiv:2302.05543).

The copy's outputs enter the frozen denoiser through layers that start at zero, so that step 0 is
the base model bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raytrain import families, pretrained
from raytrain.config import MethodConfig
from raytrain.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from raytrain.artifacts import Module
    from raytrain.batch import Batch, Columns
    from raytrain.families import Family
    from raytrain.objective import Objective
    from raytrain.sampling.prompts import Prompt

FREEZES_BASE = True
INPUTS = ("control",)
NEEDS = ("control_branch", "control", "hint")
"""Verbs that a family must have."""
BRANCH = "controlnet"
"""The part that learns, by the name of its folder in diffusers' pipelines."""


class Config(MethodConfig):
    """`[method]` with `name = "controlnet"`."""

    name: Literal["controlnet"] = "controlnet"
    path: str = ""
    """Folder (diffusers layout) or hub id of a ControlNet to start from; empty:
    a copy of the base."""
    scale: float = Field(1.0, gt=0)
    """Factor on what the branch adds to the denoiser, in training and in sampling."""


def columns(family: Family, config: Config) -> tuple[str, ...]:
    """Return what training reads: latents, encoded text and control images."""
    return ("latents", "text", "control")


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the frozen denoiser, what the hint is made with, and the trainable fp32 branch.

    `seed` fixes the start of those layers of the branch that the base does not have.
    """
    import torch

    name = families.denoiser(family)
    make = families.verb(
        family, "control_branch", 'method.name = "controlnet" trains a ControlNet'
    )
    denoiser = load(name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        branch = make(denoiser, load)
    if config.path:
        branch = _loaded(pretrained.resolve(config.path), type(branch), denoiser)
    frozen = {part: load(part) for part in family.HINT_PARTS}  # type: ignore[attr-defined]
    return {name: denoiser, **frozen, BRANCH: branch.float().eval().requires_grad_(True)}


def losses(
    objective: Objective,
    parts: Mapping[str, nn.Module],
    batch: Batch,
    draws: Columns,
    config: Config,
) -> Tensor:
    """Return each row's weighted error with the branch's residuals, (n,) float32."""
    from raytrain.methods import _denoise

    family: Any = objective.family
    noised = objective.noised(batch, draws)
    given = _denoise.condition(objective, parts, batch)
    hint = family.hint(parts, batch.columns["control"], objective.model)
    added = family.control(parts[BRANCH], noised.noisy, noised.time, given, hint, config.scale)
    predicted = _denoise.predict(objective, parts, noised, given, **added)
    return objective.losses(predicted, noised, batch)


def artifacts(state: Mapping[str, Tensor], config: Config, family: Family) -> list[Module]:
    """Return the branch, a module next to the base."""
    from raytrain.artifacts import Module

    return [
        Module(BRANCH, {name.removeprefix(f"{BRANCH}."): tensor for name, tensor in state.items()})
    ]


def pipeline_inputs(family: Family, config: Config, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return the pipeline's arguments in addition to the prompts: a control image for each."""
    name: str = family.CONTROL_INPUT  # type: ignore[attr-defined]
    images = [prompt.inputs["control"] for prompt in prompts]
    return {name: images, "controlnet_conditioning_scale": config.scale}


def _loaded(folder: Path, kind: Any, denoiser: nn.Module) -> nn.Module:
    """Load a ControlNet of the class `kind`; UserError unless it is one for this denoiser."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"method.path = {str(folder)!r} must be a ControlNet's folder in diffusers layout, "
            "but it has no config.json; there is nothing to start from. Give the folder that "
            "holds config.json, or leave it out."
        )
    found = pretrained.read_config(folder, "config.json").get("_class_name")
    if found != kind.__name__:
        raise UserError(
            f"method.path = {str(folder)!r} holds a {found}, and this family's ControlNet is a "
            f"{kind.__name__}; its residuals would not fit. Give a ControlNet for this base "
            "model, or leave it out."
        )
    branch: nn.Module = kind.from_pretrained(folder)
    own = denoiser.state_dict()
    for name, weight in branch.state_dict().items():
        if name in own and own[name].shape != weight.shape and own[name].is_floating_point():
            raise UserError(
                f"method.path = {str(folder)!r} was made for another base model: its {name!r} is "
                f"{tuple(weight.shape)}, the base's {tuple(own[name].shape)}. Give a ControlNet "
                "for this base model."
            )
    return branch
