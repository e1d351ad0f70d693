"""bf16 weights: rounding by chance is right on average, a compensated sum loses nothing,
both learn where nearest stalls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrain.optimizers._low_precision import RoundedAdamW, join, split, stochastic_round
from raytrain.train.engines.loss_scale import PATIENCE, LossScale


@pytest.mark.parametrize("value", [1.001, -1.001, 3.0e-5, -7.77e3, 0.0])
def test_rounding_by_chance_is_right_on_average(value: float) -> None:
    values = torch.full((200_000,), value)
    rounded = stochastic_round(values, torch.Generator().manual_seed(0))
    near = values[0].bfloat16().float()
    gap = abs(float(near)) * 2**-7
    assert (rounded.float() - value).abs().max() <= gap  # one of the two neighbors
    assert float(rounded.double().mean()) == pytest.approx(value, abs=max(gap, 1e-30) * 0.01)


def test_what_bf16_can_hold_is_not_changed() -> None:
    values = torch.randn(10_000).bfloat16().float()
    assert torch.equal(stochastic_round(values, torch.Generator().manual_seed(0)).float(), values)
    infinite = torch.tensor([float("inf"), float("-inf")])
    assert torch.equal(
        stochastic_round(infinite, torch.Generator().manual_seed(0)).float(), infinite
    )


def test_nothing_is_missing() -> None:
    values = torch.randn(100_000) * torch.logspace(-30, 30, 100_000)
    ties = torch.tensor(
        [1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, -1 - 3 * 2**-8]
    )  # as near to one bf16 as to another
    values = torch.cat([values, ties])
    rounded, missing = split(values)
    nearest = values.bfloat16()  # of a tie the even one, where `split` takes the larger
    assert torch.equal((rounded.double() - values).abs(), (nearest.double() - values).abs())
    assert torch.equal(join(rounded, missing), values)


def distance(rounding: str | None) -> float:
    """Return how far from its aim a weight ends whose steps are a hundredth of what bf16 resolves
    at it."""
    weight = nn.Parameter(
        torch.full((256,), 1.0, dtype=torch.bfloat16 if rounding else torch.float32)
    )
    options = {"lr": 4e-5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    optimizer = (
        RoundedAdamW([weight], **options, rounding=rounding)  # type: ignore[arg-type]
        if rounding
        else torch.optim.AdamW([weight], **options)  # type: ignore[arg-type]
    )
    for _ in range(1000):
        (weight.float() - 1.1).square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    return float((weight.detach().float() - 1.1).mean().abs())


def test_small_steps_count() -> None:
    exact = distance(None)
    assert distance("nearest") == pytest.approx(0.1, abs=1e-3)  # nothing was learned
    assert distance("stochastic") == pytest.approx(exact, abs=3e-3)
    assert distance("compensated") == pytest.approx(
        exact, abs=2**-8
    )  # half of what bf16 resolves at 1


def test_loss_scale_halves_and_doubles() -> None:
    scale = LossScale(8.0)
    scale.update(False)
    assert (scale.value, scale.finite_steps) == (4.0, 0)
    for _ in range(PATIENCE):
        scale.update(True)
    assert (scale.value, scale.finite_steps) == (8.0, 0)
