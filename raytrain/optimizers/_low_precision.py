"""Training weights that are stored in bf16, whose steps are mostly smaller than what bf16 resolves
(2^-8 of the weight).

Rounding to nearest loses such steps; rounding by chance keeps them on average (Gupta et al. 2015,
arXiv:1502.02551); a compensated sum keeps what was cut off, here the other half of a float32's
bits, and so is exact (Kalamkar et al. 2019, arXiv:1905.12322).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def stochastic_round(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round float32 to one of the two nearest bfloat16, up with the probability of the part that
    is cut off."""
    # A bf16 number is the upper half of a float32's bits: a random lower half carries into it as
    # often as it should.
    chance = torch.randint(
        0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=generator
    )
    return ((values.view(torch.int32) + chance) & -(1 << 16)).view(torch.float32).bfloat16()


def split(values: Tensor) -> tuple[Tensor, Tensor]:
    """Split float32 into its nearest bfloat16 and the int16 of bits that are missing;
    `join` gives it back exactly."""
    bits = values.view(torch.int32)
    upper = ((bits + (1 << 15)) >> 16) << 16
    return upper.view(torch.float32).bfloat16(), (bits - upper).short()


def join(rounded: Tensor, missing: Tensor) -> Tensor:
    """Return the float32 that `split` was given."""
    return (rounded.float().view(torch.int32) + missing).view(torch.float32)


class RoundedAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) on bfloat16 weights,
    its moments and arithmetic in float32.

    `rounding` is `stochastic`, whose chance depends on the step alone so that runs repeat,
    `compensated` or `nearest`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        rounding: str,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        )
        self.rounding = rounding

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        each = ((weight, group) for group in self.param_groups for weight in group["params"])
        for index, (weight, group) in enumerate(each):
            if weight.grad is not None:
                self._step(weight, group, index)

    def _step(self, weight: Tensor, group: dict[str, Any], index: int) -> None:
        assert weight.grad is not None
        state, gradient = self.state[weight], weight.grad.float()
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = (
                torch.zeros_like(gradient),
                torch.zeros_like(gradient),
            )
            if self.rounding == "compensated":
                state["missing"] = torch.zeros_like(weight, dtype=torch.int16)
        state["step"] += 1
        (first, second), count = group["betas"], int(state["step"])
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = (state["exp_avg_sq"] / (1 - second**count)).sqrt_().add_(group["eps"])
        rate = group["lr"]
        compensated = self.rounding == "compensated"
        exact = join(weight, state["missing"]) if compensated else weight.float()
        exact.mul_(1 - rate * group["weight_decay"]).addcdiv_(
            state["exp_avg"], scale, value=-rate / (1 - first**count)
        )
        if compensated:
            rounded, state["missing"] = split(exact)
        elif self.rounding == "stochastic":
            generator = torch.Generator(weight.device).manual_seed(
                math.comb(count + index, 2) + index
            )
            rounded = stochastic_round(exact, generator)
        else:
            rounded = exact.bfloat16()
        weight.copy_(rounded)
