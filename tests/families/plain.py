"""Diffusers' pipelines watched at work: what they condition on,
hand to their scheduler and decode."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor


@dataclass
class Watched:
    """One call of a pipeline."""

    steps: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """What the scheduler was given: prediction after guidance, timestep, noisy latents."""
    last: Any = None
    """The scheduler's last latents."""
    decoded: Any = None
    """What the VAE was given to decode."""
    images: Any = None


def watch(pipe: Any, **call: Any) -> Watched:
    """Call a pipeline and write down what it does."""
    seen, step, decode = Watched(), pipe.scheduler.step, pipe.vae.decode

    @functools.wraps(step)
    def stepped(
        prediction: Tensor, time: Tensor, sample: Tensor, *rest: Any, **options: Any
    ) -> Any:
        seen.steps.append((prediction, time, sample))
        result = step(prediction, time, sample, *rest, **options)
        seen.last = result[0]
        return result

    @functools.wraps(decode)
    def decoded(latents: Tensor, *rest: Any, **options: Any) -> Any:
        seen.decoded = latents
        return decode(latents, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe.scheduler, "step", stepped)
        patch.setattr(pipe.vae, "decode", decoded)
        with torch.no_grad():
            seen.images = pipe(**call, output_type="pt").images
    return seen


def conditions(pipe: Any, captions: Sequence[str]) -> list[Tensor]:
    """Return all that a pipeline's own encoders say of captions, whatever the order."""
    needed = [
        parameter.name
        for parameter in inspect.signature(pipe.encode_prompt).parameters.values()
        if parameter.default is inspect.Parameter.empty and parameter.name.startswith("prompt_")
    ]
    with torch.no_grad():
        found = pipe.encode_prompt(
            prompt=list(captions), device=torch.device("cpu"), num_images_per_prompt=1,
            do_classifier_free_guidance=False, **dict.fromkeys(needed),
        )  # fmt: skip
    return [each for each in found if isinstance(each, Tensor)]


def among(column: Tensor, found: Sequence[Tensor], tolerance: float) -> bool:
    """Tell whether one of these tensors is the column, within a tolerance."""
    alike = (each.float() for each in found if each.shape == column.shape)
    return any(float((each - column.float()).abs().max()) <= tolerance for each in alike)
