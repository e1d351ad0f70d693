"""LoHa: updates that are elementwise products of two low-rank ones, of rank up to rank^2
(FedPara, arXiv:2108.06098).

W + (alpha / rank) (w1_a w1_b) * (w2_a w2_b), as in LyCORIS (Yeh et al. 2023, arXiv:2309.14859).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from raytrain import families
from raytrain.methods import _adapter

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.artifacts import Hadamard
    from raytrain.families import Family

FREEZES_BASE = True
TINY = (
    {"rank": 4, "alpha": 2.0},
    {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0},
    {"rank": 4, "alpha": 2.0, "conv_rank": 2, "tucker": True},
)


class Config(_adapter.AdapterConfig):
    """`[method]` with `name = "loha"`."""

    name: Literal["loha"] = "loha"
    tucker: bool = False
    """Convolutions of kernels above 1 keep their kernel apart (Tucker's decomposition):
    fewer weights for their rank."""


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the denoiser with trainable fp32 adapters; w2_b starts at zero,
    `seed` fixes the others."""
    from peft import LoHaConfig

    name = families.denoiser(family)
    denoiser = load(name)
    _adapter.refuse_quantized(denoiser, config.name)
    settings = _adapter.denoiser_settings(denoiser, name, family, config)
    alpha: float = config.alpha or config.rank
    adapters = LoHaConfig(alpha=alpha, use_effective_conv2d=config.tucker, **settings)
    return {name: _adapter.inject(denoiser, adapters, seed)}


def artifacts(state: Mapping[str, Tensor], config: Config, family: Family) -> list[Hadamard]:
    """Return the updates, one of each layer."""
    from raytrain.artifacts import Hadamard

    found = []
    for part, layer, tensors in _adapter.by_layer(state):
        alpha, rank = _adapter.strength(layer, part, family, config)
        found.append(Hadamard(part, layer, alpha, tensors, rank))
    return found
