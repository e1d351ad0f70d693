"""A LoRA on a quantized base: the loss is nearly the whole base's, memory is less,
and runs resume, sample and export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain import checkpoint, families, plugins, quantize, sample
from raytrain.config import Config
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.errors import UserError
from raytrain.export.run import export
from raytrain.model import build
from raytrain.train import cost, worker
from raytrain.train.order import batch_sampler_of
from tests.conftest import losses
from tests.train.test_resume import check_resume

TOLERANCE = {"int8": 5e-4, "nf4": 1e-2}
"""Relative difference of a loss to the unquantized base's: 1.2e-4 and 2.6e-3 were measured on
these random weights."""
ALIKE = {"int8": 0.999, "nf4": 0.85}
"""Cosine of the adapters' gradients with those on the unquantized base:
0.9995 and 0.872 were measured."""
KINDS = pytest.mark.parametrize("kind", ["int8", "nf4"])
FAMILIES = pytest.mark.parametrize("family", plugins.names("families"))


def quantized(
    run_config: Callable[..., Config], kind: str, family: str = "sd15", **tables: Any
) -> Config:
    config = run_config(family, **tables)
    return config.model_copy(update={"model": config.model.model_copy(update={"quantize": kind})})


def one_step(config: Config) -> tuple[float, list[torch.Tensor], torch.nn.Module]:
    """Return the first step's loss, the adapters' gradients and the denoiser."""
    model = build(config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(9)
    model.load(
        {n: torch.randn(v.shape, generator=generator) * 0.1 for n, v in model.state().items()}
    )
    dataset = Dataset(config.dataset)
    batch = Loader(dataset, batch_sampler_of(config, dataset.counts())).step(0).batch
    loss = model(batch, model.draw(batch)).mean()
    loss.backward()
    return loss.item(), [p.grad for p in model.learning().values() if p.grad is not None], model


@KINDS
@FAMILIES
def test_loss_and_gradients_are_nearly_the_whole_bases(
    run_config: Callable[..., Config], family: str, kind: str
) -> None:
    expected, wanted, whole = one_step(run_config(family))
    loss, gradients, denoiser = one_step(quantized(run_config, kind, family))
    assert loss == pytest.approx(expected, rel=TOLERANCE[kind])
    assert loss != expected  # something was quantized
    assert len(gradients) == len(wanted)
    likeness = torch.cosine_similarity(
        torch.cat([g.flatten() for g in gradients]),
        torch.cat([g.flatten() for g in wanted]),
        dim=0,
    )
    assert likeness > ALIKE[kind]
    assert quantize.weight_count(denoiser) == quantize.weight_count(whole)


@KINDS
def test_memory_is_what_the_plan_says(run_config: Callable[..., Config], kind: str) -> None:
    config = quantized(run_config, kind, "sdxl")
    family = families.load("sdxl")
    skeleton = cost.skeleton(run_config("sdxl", method={"name": "full"}))
    linear = 4 * sum(weight.numel() for weight in skeleton.parameters() if weight.dim() == 2)
    whole = family.load(
        config.model.model_copy(update={"quantize": "none"}), "unet", torch.float32
    )
    small = quantize.stored_bytes(family.load(config.model, "unet", torch.float32))
    saved = quantize.stored_bytes(whole) - small
    assert saved / linear == pytest.approx({"int8": 3 / 4, "nf4": 7 / 8}[kind], abs=0.02)
    assert cost.weights(config, cost.skeleton(config)).frozen_bytes == pytest.approx(
        small, rel=0.02
    )


def test_layers_move_whole_to_a_device(run_config: Callable[..., Config]) -> None:
    denoiser = families.load("sd15").load(
        quantized(run_config, "int8").model, "unet", torch.float32
    )
    layer = next(layer for layer in denoiser.modules() if isinstance(layer, quantize.Int8Linear))
    before = layer.state.SCB
    denoiser._apply(torch.clone)  # as a copy to a GPU makes new tensors of everything
    assert layer.state.CB.data_ptr() == layer.weight.data_ptr()
    assert layer.state.SCB.data_ptr() != before.data_ptr()


@pytest.mark.parametrize(
    ("kind", "train"),
    [
        ("nf4", {"precision": "bf16", "gradient_checkpointing": True}),
        pytest.param("int8", {}, marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_for_bit(
    run_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    train: dict[str, Any],
) -> None:
    whole = quantized(run_config, kind, name="whole", train={**train, "held_out_every": 1})
    broken = quantized(run_config, kind, name="broken", train={**train, "held_out_every": 1})
    check_resume(whole, broken, monkeypatch)
    unquantized = broken.model_copy(
        update={"model": broken.model.model_copy(update={"quantize": "none"})}
    )
    with pytest.raises(UserError, match=rf"model\.quantize: '{kind}' -> 'none'"):
        worker.train(unquantized)


@FAMILIES
def test_a_run_samples_and_exports(run_config: Callable[..., Config], family: str) -> None:
    config = quantized(run_config, "nf4", family, train={"steps": 2})
    worker.train(config)
    assert Path(sample.sample(config)).is_file()
    assert export(config)
    plain = run_config(family, name="plain", train={"steps": 2})
    worker.train(plain)
    names = [
        checkpoint.load(checkpoint.find(c.output) or "").weights.keys() for c in (config, plain)
    ]
    assert names[0] == names[1]


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2"])
def test_engines_agree(run_config: Callable[..., Config], engine: str) -> None:
    train = {"learning_rate": 1e-3, "steps": 3}
    plain = quantized(run_config, "nf4", name="plain", train={**train, "engine": "plain"})
    worker.train(plain)
    other = quantized(run_config, "nf4", name="other", train={**train, "engine": engine})
    worker.train(other)
    assert losses(other) == pytest.approx(losses(plain), abs=1e-5)
