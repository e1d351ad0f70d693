"""What makes steps faster changes neither the result, nor a weight's name,
nor whether a run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raytrain import families, optimizers, plugins
from raytrain.config import Config
from raytrain.data.loading.loader import Loader
from raytrain.errors import UserError
from raytrain.model import build
from raytrain.optimizers import _state
from raytrain.train import worker
from raytrain.train.engines import engine, speed
from raytrain.train.hooks import profile
from raytrain.train.run import start
from tests.conftest import losses
from tests.train.test_resume import check_resume

CPU = torch.device("cpu")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_channels_last_learns_the_same_and_resumes_bit_for_bit(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    train = {"learning_rate": 1e-3, "memory_format": "channels_last"}
    plain = run_config(name="plain", method={"name": method}, train={"learning_rate": 1e-3})
    whole = run_config(name="whole", method={"name": method}, train=train)
    broken = run_config(name="broken", method={"name": method}, train=train)
    worker.train(plain)
    check_resume(whole, broken, monkeypatch)
    assert losses(whole) == pytest.approx(losses(plain), abs=1e-5)


@pytest.mark.parametrize(
    ("engine", "method"),
    [
        ("zero2", "lora"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("zero2", "full"), ("zero3", "lora"), ("zero3", "full"))
        ),
    ],
)
def test_channels_last_under_zero(
    run_config: Callable[..., Config], engine: str, method: str
) -> None:
    tables: dict[str, Any] = {"method": {"name": method}}
    train = {"steps": 3, "learning_rate": 1e-3}
    plain = run_config(name="plain", train={**train, "engine": "plain"}, **tables)
    worker.train(plain)
    sharded = run_config(
        name="zero", train={**train, "engine": engine, "memory_format": "channels_last"}, **tables
    )
    worker.train(sharded)
    assert losses(sharded) == pytest.approx(losses(plain), abs=1e-5)


def test_a_restored_state_lies_as_the_weight_does(run_config: Callable[..., Config]) -> None:
    """The fused kernel takes a contiguous state for a channels_last one and computes nonsense."""
    config = run_config().train
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last))
    optimizer = optimizers.build({"w": weight}, config)
    for key in ("exp_avg", "exp_avg_sq"):
        value = torch.rand(weight.shape)
        _state.load(optimizer, {"w": weight}, {f"w|{key}": value})
        assert optimizer.state[weight][key].stride() == weight.stride()
        assert torch.equal(optimizer.state[weight][key], value)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_auto_is_channels_last_on_a_gpu_alone(
    run_config: Callable[..., Config], optimizer: str
) -> None:
    config = run_config(method={"name": "full"}, train={"optimizer": optimizer})

    def conv(config: Config, device: str) -> nn.Parameter:
        model = build(config, CPU)
        speed.prepare(model, config.train, torch.device(device))
        weight: nn.Parameter = model.denoiser.get_parameter("down_blocks.0.resnets.0.conv1.weight")
        return weight

    assert conv(config, "cpu").is_contiguous()
    assert conv(config, "cuda").is_contiguous(memory_format=torch.channels_last) is (
        optimizer == "adamw"
    )


def test_compiled_blocks_compute_the_same_under_the_same_names(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []
    real = nn.Module.compile

    def compile_without_a_compiler(module: nn.Module) -> None:  # the C++ one takes minutes
        compiled.append(type(module).__name__)
        real(module, backend="eager")

    def gradients(config: Config) -> dict[str, torch.Tensor]:
        run = start(config, 0, 1)
        batch = Loader(run.dataset, run.batch_sampler).step(0).batch
        run.engine.model(batch, run.model.draw(batch)).sum().backward()
        run.close()
        return {name: w.grad for name, w in run.model.named_parameters() if w.grad is not None}

    monkeypatch.setattr(nn.Module, "compile", compile_without_a_compiler)
    eager = gradients(run_config(name="eager", train={"gradient_checkpointing": True}))
    assert not compiled
    fast = gradients(
        run_config(name="fast", train={"gradient_checkpointing": True, "compile": True})
    )
    assert set(compiled) == {"BasicTransformerBlock"}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert fast.keys() == eager.keys()
    for name, gradient in eager.items():
        torch.testing.assert_close(fast[name], gradient, rtol=0, atol=1e-5, msg=name)


def test_a_denoiser_without_repeated_blocks_is_not_compiled(
    run_config: Callable[..., Config],
) -> None:
    config = run_config(train={"compile": True})
    model = build(config, CPU)
    model.parts["unet"] = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"train\.compile .* Linear names none"):
        speed.prepare(model, config.train, CPU)


@pytest.mark.parametrize("family", plugins.names("families"))
def test_attention_is_pytorchs_fused_one(run_config: Callable[..., Config], family: str) -> None:
    config = run_config(family)
    denoiser: Any = families.load(family).load(
        config.model, families.denoiser(families.load(family)), torch.float32
    )
    processors = {type(each).__name__ for each in denoiser.attn_processors.values()}
    # They call scaled_dot_product_attention; the older ones build the whole matrix.
    assert all(name.endswith("AttnProcessor2_0") for name in processors)


@pytest.mark.parametrize(
    ("precision", "device", "asked"),
    [("bf16", "cuda", ["high"]), ("fp32", "cuda", []), ("bf16", "cpu", [])],
)
def test_tensor_float_32_is_for_mixed_precision_on_a_gpu(
    run_config: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    device: str,
    asked: list[str],
) -> None:
    found: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", found.append)
    speed.prepare(
        nn.Linear(2, 2), run_config(train={"precision": precision}).train, torch.device(device)
    )
    assert found == asked


def test_adamw_is_fused(run_config: Callable[..., Config]) -> None:
    plain = engine.PlainEngine(build(run_config(), CPU), run_config().train)
    assert plain._optimizer.defaults["fused"]


@pytest.mark.parametrize(
    ("steps", "recorded"),
    [
        pytest.param(2, 2, id="after a warm-up"),
        pytest.param(9, 6, id="all of a short run", marks=pytest.mark.slow),
    ],
)
def test_a_profile_is_written(
    run_config: Callable[..., Config], steps: int, recorded: int
) -> None:
    config = run_config(train={"profile": steps})
    worker.train(config)
    folder = Path(config.output, profile.FOLDER)
    names = [
        event.get("name", "")
        for event in json.loads((folder / "trace.json").read_text())["traceEvents"]
    ]
    assert sum(name.startswith("Optimizer.step#") for name in names) == recorded
    assert "scaled_dot_product" in (folder / "operators.txt").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["operators.txt", "trace.json"]


def test_gradient_checkpointing_computes_blocks_again_and_keeps_less(
    run_config: Callable[..., Config],
) -> None:
    def step(on: bool) -> tuple[int, int]:
        """Return how often blocks run in a step, and the numbers kept for the backward pass."""
        run = start(run_config(name=str(on), train={"gradient_checkpointing": on}), 0, 1)
        runs = kept = 0

        def ran(*_: Any) -> None:
            nonlocal runs
            runs += 1

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        for block in run.model.denoiser.modules():
            if type(block).__name__ == "BasicTransformerBlock":
                block.register_forward_pre_hook(ran)
        made, draws = next(worker.batches(run))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = run.model(made.batch, draws).sum()
        loss.backward()
        run.close()
        return runs, kept

    (once, all_kept), (twice, few_kept) = step(False), step(True)
    assert twice == 2 * once > 0
    assert few_kept < 0.7 * all_kept
