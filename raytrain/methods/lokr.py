"""LoKr: updates that are Kronecker products of a small matrix and a low-rank one, as in LyCORIS
(arXiv:2309.14859).

W + (alpha / rank) kron(w1, w2): few weights for an update of high rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from raytrain import families
from raytrain.methods import _adapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.artifacts import Kronecker
    from raytrain.families import Family

FREEZES_BASE = True
TINY = (
    {"rank": 2, "alpha": 1.0, "conv_rank": 1, "conv_alpha": 3.0},
    {"rank": 2, "alpha": 1.0, "conv_rank": 1, "tucker": True},
    {"rank": 1, "alpha": 3.0, "factor": 4, "decompose_both": True},
    {"rank": 64, "alpha": 16.0},
)


class Config(_adapter.AdapterConfig):
    """`[method]` with `name = "lokr"`."""

    name: Literal["lokr"] = "lokr"
    factor: int | None = Field(None, ge=1)
    """Size of w1, as near as the layer's size can be divided; default:
    near the square root of the layer's."""
    decompose_both: bool = False
    """w1 is a product of two low-rank matrices too, where the rank is small enough."""
    tucker: bool = False
    """Convolutions of kernels above 1 keep their kernel apart (Tucker's decomposition)."""


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the denoiser with trainable fp32 adapters; w1 starts at zero, `seed` fixes w2."""
    from peft import LoKrConfig

    name = families.denoiser(family)
    denoiser = load(name)
    _adapter.refuse_quantized(denoiser, config.name)
    settings = _adapter.denoiser_settings(denoiser, name, family, config)
    alpha: float = config.alpha or config.rank
    adapters = LoKrConfig(
        alpha=alpha,
        decompose_factor=config.factor or -1,
        decompose_both=config.decompose_both,
        use_effective_conv2d=config.tucker,
        **settings,
    )
    return {name: _adapter.inject(denoiser, adapters, seed)}


def artifacts(state: Mapping[str, Tensor], config: Config, family: Family) -> list[Kronecker]:
    """Return the updates, one of each layer."""
    from raytrain.artifacts import Kronecker

    found = []
    for part, layer, tensors in _adapter.by_layer(state):
        alpha, rank = _adapter.strength(layer, part, family, config)
        found.append(Kronecker(part, layer, alpha, tensors, rank))
    return found
