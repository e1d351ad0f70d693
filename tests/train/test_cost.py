"""What a step costs, counted without weights, is what it costs with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from raytrain import plugins
from raytrain.config import Config
from raytrain.data.loading.loader import Loader
from raytrain.data.store.schema import bucket_size
from raytrain.model import Model
from raytrain.train import cost, run

FAMILIES = plugins.names("families")


def live(config: Config) -> tuple[Model, Any, Any, tuple[int, int]]:
    """Return a run's model and a batch of one row with its draws, and the size of its bucket."""
    started = run.start(config, 0, 1)
    step = Loader(started.dataset, started.batch_sampler, columns=started.model.columns).step(0)
    started.close()
    batch = step.batch.split(1)[0]
    return started.model, batch, started.model.draw(batch), bucket_size(step.bucket)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_operations_and_weights_are_those_of_the_live_model(
    run_config: Callable[..., Config], family: str, method: str
) -> None:
    config = run_config(family, method={"name": method})
    model, batch, draws, size = live(config)
    # PyTorch's counter knows no fused attention of CPUs.
    with cost.countable_attention(), FlopCounterMode(display=False) as counter:
        model(batch, draws).sum().backward()
    skeleton = cost.skeleton(config)
    assert cost.step(config, skeleton, *size).flops == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )
    counted = cost.weights(config, skeleton)
    assert counted.all == sum(weight.numel() for weight in model.parameters())
    assert counted.trainable == sum(weight.numel() for weight in model.learning().values())
    assert counted.frozen_bytes == sum(w.nbytes for w in model.parameters() if not w.requires_grad)


def test_attention_counts_as_a_fused_kernel_does() -> None:
    query, key, value = (
        torch.randn(1, 2, length, 16, requires_grad=True) for length in (8, 12, 12)
    )
    with cost.countable_attention(), FlopCounterMode(display=False) as counter:
        found = functional.scaled_dot_product_attention(query, key, value)
        found.sum().backward()
    shapes = query.shape, key.shape, value.shape
    assert counter.get_total_flops() == sdpa_flop_count(*shapes) + sdpa_backward_flop_count(
        found.shape, *shapes
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_are_what_autograd_keeps(
    run_config: Callable[..., Config], family: str, method: str
) -> None:
    config = run_config(family, method={"name": method})
    model, batch, draws, size = live(config)
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, draws)
    found = cost.step(config, cost.skeleton(config), *size, flops=False)
    assert found.activations == pytest.approx(
        sum(storage.nbytes() for storage in kept.values()), rel=0.1
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_blocks_keep_less_and_compute_more(
    run_config: Callable[..., Config], family: str
) -> None:
    whole, again = (
        run_config(family, train={"gradient_checkpointing": on}) for on in (False, True)
    )
    one, two = (cost.step(config, cost.skeleton(config), 64, 64) for config in (whole, again))
    assert two.activations < 0.6 * one.activations
    assert 1.2 * one.flops < two.flops < 2 * one.flops
    model, batch, draws, size = live(again)
    with cost.countable_attention(), FlopCounterMode(display=False) as counter:
        model(batch, draws).sum().backward()
    assert cost.step(again, cost.skeleton(again), *size).flops == pytest.approx(
        counter.get_total_flops(), rel=0.02
    )


def test_half_precision_keeps_about_half(run_config: Callable[..., Config]) -> None:
    whole, half = (run_config(train={"precision": precision}) for precision in ("fp32", "bf16"))
    one, two = (
        cost.step(config, cost.skeleton(config), 64, 64, flops=False).activations
        for config in (whole, half)
    )
    assert 0.5 * one < two < 0.8 * one
