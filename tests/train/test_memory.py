"""The lowest engine that fits, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.train.engines import memory
from raytrain.train.engines.memory import Sizes, choose, device_memory, estimate

SDXL = Sizes(
    weights=2_567_000_000, trainable=2_567_000_000, frozen_bytes=0, activations=1_150_000_000
)
ADAPTER = Sizes(
    weights=2_590_000_000,
    trainable=23_000_000,
    frozen_bytes=2 * 2_567_000_000,
    activations=1_150_000_000,
)
GIB = 2**30


def config(method: str = "full", **train: object) -> Config:
    settings = {"precision": "bf16", "gradient_checkpointing": True, **train}
    return parse(
        {"output": "x", "model": {"path": "x"}, "method": {"name": method}, "train": settings}
    )


@pytest.mark.parametrize(
    ("method", "world_size", "gib", "expected"),
    [
        ("lora", 1, 24, ("plain", "none")),
        ("lora", 8, 24, ("ddp", "none")),
        ("full", 8, 80, ("ddp", "none")),
        ("full", 8, 40, ("zero1", "none")),
        ("full", 8, 24, ("zero2", "none")),
        ("full", 8, 16, ("zero3", "none")),
        ("full", 1, 40, ("zero2", "optimizer")),
    ],
)
def test_the_lowest_that_fits(
    method: str, world_size: int, gib: int, expected: tuple[str, str]
) -> None:
    sizes = ADAPTER if method == "lora" else SDXL
    choice = choose(config(method), sizes, world_size, 1, gib * GIB)
    assert choice[:2] == expected, str(choice)
    assert choice.planned <= gib * GIB


def test_it_says_why() -> None:
    assert str(choose(config("lora"), ADAPTER, 1, 1, 24 * GIB)).startswith("plain: needs about ")
    tight = choose(config(), SDXL, 1, 1, GIB)
    assert tight[:2] == ("zero3", "weights")
    assert "it may not fit" in tight.reason


def test_a_quantized_base_is_not_cut_into_shards() -> None:
    lora = config("lora")
    quantized = lora.model_copy(
        update={"model": lora.model.model_copy(update={"quantize": "nf4"})}
    )
    assert choose(lora, ADAPTER, 8, 1, GIB)[0] == "zero3"
    assert choose(quantized, ADAPTER, 8, 1, GIB)[0] == "zero2"


def test_what_was_asked_for_is_taken() -> None:
    assert choose(config(engine="zero3", offload="weights"), SDXL, 2, 1, 1000 * GIB)[:2] == (
        "zero3",
        "weights",
    )
    assert choose(config(engine="zero1"), SDXL, 1, 1, 1000 * GIB)[:2] == ("zero1", "none")
    assert choose(config(optimizer="adamw8bit"), SDXL, 4, 1, GIB)[:2] == ("ddp", "none")
    assert choose(config(), SDXL, 4, 1, None)[:2] == (
        "ddp",
        "none",
    )  # nothing is known of the device


def test_more_workers_never_need_more() -> None:
    for engine in ("ddp", "zero1", "zero2", "zero3"):
        needs = [
            estimate(config(), engine, "none", SDXL, world_size, 1) for world_size in (1, 2, 4, 8)
        ]
        assert needs == sorted(needs, reverse=True), engine


def test_memory_of_a_device(run_config: Callable[..., Config]) -> None:
    assert device_memory(config(memory_gb=2).train, 4) == 2 * GIB
    assert device_memory(config(gpus_per_worker=1, memory_gb=3).train, 1) == 3 * GIB
    found = device_memory(config().train, 2)
    assert found is not None
    assert found == pytest.approx((device_memory(config().train, 1) or 0) / 2, abs=1)


@pytest.mark.parametrize(
    ("text", "expected"), [("2147483648\n", 2 * GIB), ("max\n", None), (f"{2**63 - 4096}\n", None)]
)
def test_a_container_has_what_it_may_take(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: int | None
) -> None:
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none",))
    whole = device_memory(config().train, 1)
    (tmp_path / "limit").write_text(text)
    monkeypatch.setattr(memory, "LIMITS", (tmp_path / "none", tmp_path / "limit"))
    assert device_memory(config().train, 1) == (expected or whole)
