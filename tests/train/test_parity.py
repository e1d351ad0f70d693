"""A step of ours equals a plain diffusers + peft step on the same weights, data,
noise and timesteps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor

from raytrain import families
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.model import build, public_name
from raytrain.train.order import batch_sampler_of
from tests.families import plain, references

TOLERANCE = 1e-5
CPU = torch.device("cpu")
Step = tuple[Tensor, dict[str, Tensor]]
"""The mean loss of a batch and its gradients by public name."""


def ours(config: Config) -> tuple[Batch, Columns, dict[str, Tensor], Step]:
    model = build(config, CPU)
    # B starts at zero, which would hide errors in A's gradient
    generator = torch.Generator().manual_seed(9)
    start = {
        name: torch.randn(value.shape, generator=generator) * 0.1
        if "lora_B" in name
        else value.clone()
        for name, value in model.state().items()
    }
    model.load(start)
    dataset = Dataset(config.dataset)
    batch = Loader(dataset, batch_sampler_of(config, dataset.counts())).step(0).batch
    draws = model.draw(batch)
    loss = model(batch, draws).mean()
    loss.backward()
    return batch, draws, start, (loss.detach(), _gradients(model.learning()))


def reference(config: Config, batch: Batch, draws: Columns, start: dict[str, Tensor]) -> Step:
    """The same step from the libraries' public parts alone."""
    own, part = (
        references.load(config.model.family),
        families.denoiser(families.load(config.model.family)),
    )
    pipe = DiffusionPipeline.from_pretrained(config.model.path)
    denoiser = getattr(pipe, part).requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=own.TARGETS), denoiser)
    learning = {
        f"{part}.{public_name(n)}": weight
        for n, weight in denoiser.named_parameters()
        if weight.requires_grad
    }
    learning = {
        name: weight for name, weight in learning.items() if name in start
    }  # others begin without effect
    for name, weight in learning.items():
        weight.data.copy_(start[name])
    assert learning.keys() == start.keys()
    loss = own.loss(pipe, batch, draws, config)
    loss.backward()
    return loss.detach(), _gradients(learning)


def _gradients(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in weights.items() if weight.grad is not None}


@pytest.mark.parametrize(("family", "objective"), references.cases())
def test_step_equals_diffusers(
    run_config: Callable[..., Config], family: str, objective: dict[str, Any]
) -> None:
    config = run_config(family, objective=objective)
    batch, draws, start, (loss, gradients) = ours(config)
    expected_loss, expected = reference(config, batch, draws, start)
    assert gradients.keys() == expected.keys() == start.keys()
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=TOLERANCE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=TOLERANCE, msg=name)
    assert (
        max(float(g.abs().max()) for g in gradients.values()) > 10 * TOLERANCE
    )  # the comparison can fail


@pytest.mark.parametrize("family", references.names())
def test_stored_text_is_what_the_pipeline_conditions_on(
    run_config: Callable[..., Config], family: str
) -> None:
    config = run_config(family)
    dataset = Dataset(config.dataset)
    details = {row["id"].hex(): row for row in dataset.details("train", ("id", "captions"))}
    bucket = next(iter(details.values()))["bucket"]
    stored = dataset.rows(bucket, np.array([0]))
    encoded = plain.conditions(
        DiffusionPipeline.from_pretrained(config.model.path),
        details[stored.ids[0]]["captions"][:1],
    )
    for name in families.load(family).CONDITION:
        # stored in 16 bits
        assert plain.among(torch.from_numpy(stored.columns[name]), encoded, 2e-3), name
