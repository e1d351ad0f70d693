"""What a method does where its file says nothing: the denoiser predicts,
conditioned on stored or freshly encoded text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from raytrain import families
from raytrain.batch import Batch, Columns
from raytrain.families import Family
from raytrain.objective import Noised, Objective
from raytrain.optimizers import Group
from raytrain.rng import Draw

if TYPE_CHECKING:
    from raytrain.artifacts import Artifact
    from raytrain.config import Config
    from raytrain.sampling.prompts import Prompt

FREEZES_BASE = False
INPUTS = ()


def columns(family: Family, config: Any) -> tuple[str, ...]:
    """Return what training reads: latents and encoded text."""
    return ("latents", "text")


def draws(objective: Objective, batch: Batch, config: Any) -> dict[str, Draw]:
    """Return what the objective draws."""
    return objective.draws(batch)


def losses(
    objective: Objective, parts: Mapping[str, nn.Module], batch: Batch, draws: Columns, config: Any
) -> Tensor:
    """Return each row's weighted error, (n,) float32."""
    noised = objective.noised(batch, draws)
    predicted = predict(objective, parts, noised, condition(objective, parts, batch))
    return objective.losses(predicted, noised, batch)


def predict(
    objective: Objective,
    parts: Mapping[str, nn.Module],
    noised: Noised,
    given: Mapping[str, Tensor],
    **extra: Any,
) -> Tensor:
    """Run the denoiser among `parts`, (n, C, *S)."""
    return objective.predict(parts[families.denoiser(objective.family)], noised, given, **extra)


def condition(
    objective: Objective, parts: Mapping[str, nn.Module], batch: Batch
) -> dict[str, Tensor]:
    """Return the family's condition of a batch, float32: stored,
    or encoded here where text encoders are among `parts`."""
    family, found = objective.family, batch.columns
    encoders = {name: parts[name] for name in families.text_parts(family, "text") if name in parts}
    if encoders:
        text = family.encode_text(encoders, found, objective.model)
    else:
        text = {name: found[name].float() for name in family.CONDITION}
    sizes, fixed = found["sizes"], objective.model.size_ids
    if fixed is not None:
        sizes = sizes.new_tensor(fixed).expand_as(sizes)
    return {**text, "sizes": sizes}


def groups(config: Any) -> dict[str, Group]:
    """Return that all weights are trained alike."""
    return {}


def tokenizers(known: Mapping[str, Any], family: Family, config: Any) -> dict[str, Any]:
    """Return the tokenizers as they are."""
    return dict(known)


def known_words(text: str, config: Any) -> str:
    """Return a prompt as it is: the method teaches no words."""
    return text


def pipeline(config: Config, parts: Mapping[str, nn.Module], device: torch.device) -> Any:
    """Return the family's pipeline around these parts."""
    family = families.load(config.model.family)
    return family.pipeline(config.model, parts, config.sample.scheduler, device)


def artifacts(state: Mapping[str, Tensor], config: Any, family: Family) -> list[Artifact]:
    """Return the learned weights of each part."""
    from raytrain.artifacts import Weights

    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        part, _, path = name.partition(".")
        parts.setdefault(part, {})[path] = tensor
    return [Weights(part, tensors) for part, tensors in parts.items()]


def pipeline_inputs(family: Family, config: Any, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Return nothing: text is enough."""
    return {}


__all__ = ["FREEZES_BASE", "INPUTS", "artifacts", "columns", "condition", "draws", "groups",
           "known_words", "losses", "pipeline", "pipeline_inputs", "predict",
           "tokenizers"]  # fmt: skip
