"""On a GPU a run follows the CPU's loss curve, every engine follows one curve, and a resumed run
repeats the bits of an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raytrain import plugins
from raytrain.config import Config
from raytrain.log import read_metrics
from raytrain.sample import sample
from raytrain.train import worker
from tests.conftest import losses
from tests.train.test_resume import check_resume

pytestmark = pytest.mark.gpu
GPU = {"gpus_per_worker": 1}
FAMILIES = pytest.mark.parametrize("family", plugins.names("families"))


@FAMILIES
@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_loss_curve_is_the_cpus(
    run_config: Callable[..., Config], family: str, method: str
) -> None:
    train = {"learning_rate": 1e-3, "held_out_every": 0}
    curves = []
    for name, device in (("cpu", {}), ("gpu", GPU)):
        config = run_config(family, name, method={"name": method}, train={**train, **device})
        worker.train(config)
        curves.append(losses(config))
    # TensorFloat-32 convolutions, PyTorch's default, round to 10 bits: 5e-4 of a value.
    assert curves[1] == pytest.approx(curves[0], rel=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("engine", "offload"),
    [("ddp", "none"), ("zero1", "none"), ("zero2", "none"), ("zero3", "none"),
     ("zero2", "optimizer"), ("zero3", "weights")],
)  # fmt: skip
def test_engines_follow_one_curve(
    run_config: Callable[..., Config], engine: str, offload: str, precision: str
) -> None:
    train = {**GPU, "precision": precision, "learning_rate": 1e-3, "held_out_every": 0}
    plain = run_config(name="plain", train={**train, "engine": "plain"})
    other = run_config(name="other", train={**train, "engine": engine, "offload": offload})
    for config in (plain, other):
        worker.train(config)
    tolerance = {"fp32": 2e-3, "bf16": 2e-2, "fp16": 2e-2}[precision]
    assert losses(other) == pytest.approx(losses(plain), rel=tolerance)


@FAMILIES
@pytest.mark.parametrize(
    "train",
    [
        {},
        {"precision": "bf16", "gradient_checkpointing": True, "micro_batch": 2},
        {"precision": "fp16", "ema": 0.9},
        {"precision": "bf16", "optimizer": "adamw8bit", "lr_schedule": "cosine", "warmup": 2},
        {"optimizer": "paged_adamw8bit"},
        {"optimizer": "prodigy", "learning_rate": 1.0},
        {"param_dtype": "bf16", "precision": "bf16"},
    ],
    ids=["fp32", "bf16-checkpointing", "fp16", "adamw8bit", "paged", "prodigy", "bf16-weights"],
)
def test_resume_is_bit_for_bit(
    run_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    train: dict[str, Any],
) -> None:
    settings = {**GPU, **train}
    check_resume(
        run_config(family, "whole", train=settings),
        run_config(family, "broken", train=settings),
        monkeypatch,
    )


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_quantized_base_resumes(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def config(name: str) -> Config:
        made = run_config(name=name, train={**GPU, "precision": "bf16"})
        return made.model_copy(update={"model": made.model.model_copy(update={"quantize": kind})})

    check_resume(config("whole"), config("broken"), monkeypatch)


def test_compiled_blocks_learn_the_same(run_config: Callable[..., Config]) -> None:
    curves = []
    for name, compiled in (("eager", False), ("compiled", True)):
        config = run_config(name=name, train={**GPU, "compile": compiled, "learning_rate": 1e-3})
        worker.train(config)
        curves.append(losses(config))
    assert curves[1] == pytest.approx(curves[0], rel=5e-3)


def test_memory_is_recorded_beside_the_plan_and_images_are_made(
    run_config: Callable[..., Config],
) -> None:
    config = run_config(train=GPU)
    worker.train(config)
    rows = read_metrics(config.output)
    assert any(row.get("memory_peak_mb", 0) > 0 < row["memory_planned_mb"] for row in rows
               if "memory_planned_mb" in row)  # fmt: skip
    assert sample(config)
