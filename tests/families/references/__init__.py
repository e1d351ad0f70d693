"""One file a family: the loss of a training step, written with the library's public parts alone.

A file has `TARGETS`, the layers that the official script gives a LoRA, `OBJECTIVES`, the tables
`[objective]` to compare under, and `loss(pipe, batch, draws, config)`, the mean loss of the rows.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from torch import Tensor

from raytrain.batch import Batch, Columns


def names() -> list[str]:
    """Return the families that have a reference."""
    return sorted(
        each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_")
    )


def load(name: str) -> Any:
    """Return the reference of one family."""
    return importlib.import_module(f"{__name__}.{name}")


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Return each family with each objective it is compared under."""
    return [(name, objective) for name in names() for objective in load(name).OBJECTIVES]


def sampled(batch: Batch, draws: Columns) -> Tensor:
    """Return the VAE's latents of a batch: its stored posterior,
    sampled with the batch's own draws."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    posterior = DiagonalGaussianDistribution(batch.columns["latents"].float())
    result: Tensor = posterior.mean + posterior.std * draws["latent"]
    return result


def shares(draws: Columns, config: Any) -> Tensor:
    """Return where in the schedule each row is, (n,) in [0, 1), 0 being clean."""
    low, high = config.objective.timestep_range
    return low + draws["timestep"] * (high - low)
