"""Every optimizer learns, goes on from a checkpoint bit for bit, and refuses what it cannot do.

A new file of `raytrain/optimizers` is tested by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raytrain import optimizers, plugins
from raytrain.config import Config, TrainConfig
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.optimizers import Group
from raytrain.train.engines import engine as engines
from raytrain.train.engines.engine import Engine, PlainEngine
from tests.train.test_resume import check_resume

NAMES = plugins.names("optimizers")
OUTSIDE: dict[str, dict[str, Any]] = {
    "torch.optim.SGD": {"momentum": 0.9},
    "torch.optim.Muon": {},
    "pytorch_optimizer.Adan": {},
    "pytorch_optimizer.ScheduleFreeRAdam": {},
}
SHARDED = [name for name in NAMES if optimizers.facts(name).shards]


def config(name: str, **train: Any) -> TrainConfig:
    """Return settings with which the small model below learns fast."""
    rate = min(1.0, 10 * optimizers.facts(name).defaults["learning_rate"])
    return TrainConfig(**{"optimizer": name, "learning_rate": rate, **train})


class Layers(nn.Sequential):
    """What an engine needs of a model."""

    def learning(self) -> dict[str, nn.Parameter]:
        return dict(self.named_parameters())


def model() -> Any:
    """Return a model of two matrices, the first just large enough for a state of 8 bits."""
    torch.manual_seed(0)
    return Layers(nn.Linear(64, 64, bias=False), nn.Tanh(), nn.Linear(64, 8, bias=False))


def groups(name: str) -> dict[str, Group]:
    """Return a group of the second matrix, which learns more slowly where it can."""
    return {"2.": Group(rate=0.5 if optimizers.facts(name).group_rates else 1.0, weight_decay=0.0)}


def loss_of(engine: Engine, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(64, 64, generator=generator)
    loss: Tensor = (engine.model(inputs) - inputs[:, :8].tanh()).square().mean()
    return loss


def train(engine: Engine, settings: TrainConfig, first: int, last: int) -> None:
    """Take some steps, each on numbers of its own."""
    for number in range(first, last):
        loss = loss_of(engine, number)
        engine.backward(loss)
        engine.step(settings.learning_rate, loss.detach(), number)


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in tensors.items()}


def saved(engine: Engine) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return copies of the weights for inference and of the optimizer's state,
    as a checkpoint has them."""
    with engine.inference():
        return copies(engine.local()), copies(dict(engine.optimizer_state()))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns(name: str) -> None:
    settings = config(name)
    engine = PlainEngine(model(), settings)
    with torch.no_grad():
        before = float(loss_of(engine, -1))
    train(engine, settings, 0, 150)
    with torch.no_grad(), engine.inference():
        assert float(loss_of(engine, -1)) < 0.6 * before


@pytest.mark.parametrize("name", [*NAMES, *OUTSIDE])
def test_it_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    settings = config(name, optimizer_options=OUTSIDE.get(name, {}))
    unbroken = PlainEngine(model(), settings, groups(name))
    train(unbroken, settings, 0, 6)
    broken = PlainEngine(model(), settings, groups(name))
    train(broken, settings, 0, 3)
    weights, state = saved(broken)
    save_file(state, tmp_path / "optimizer.safetensors")
    small = model()
    small.load_state_dict(weights)
    resumed = PlainEngine(small, settings, groups(name))
    resumed.load_optimizer_state(load_file(tmp_path / "optimizer.safetensors"))
    train(resumed, settings, 3, 6)
    for whole, parts in zip(saved(unbroken), saved(resumed), strict=True):
        assert whole.keys() == parts.keys()
        for key, value in whole.items():
            assert value.dtype == parts[key].dtype, key
            assert torch.equal(value, parts[key]), key


def test_prodigys_estimate_is_kept_as_it_is() -> None:
    settings = config("prodigy")
    engine = PlainEngine(model(), settings)
    train(engine, settings, 0, 40)
    _, state = saved(engine)
    group = engine._optimizer.param_groups[0]
    assert group["d"] > group["d0"]
    assert state["|group.0|d"].dtype == torch.float64
    assert float(state["|group.0|d"]) == group["d"]
    other = PlainEngine(model(), settings)
    other.load_optimizer_state(state)
    kept = other._optimizer.param_groups[0]
    assert {key: (type(value), value) for key, value in kept.items() if key != "params"} == {
        key: (type(value), value) for key, value in group.items() if key != "params"
    }


def test_averaged_weights_are_those_for_inference_alone() -> None:
    settings = config("schedule_free")
    engine = PlainEngine(model(), settings)
    train(engine, settings, 0, 5)
    trained = copies(engine.local())
    with engine.inference():
        averaged = copies(engine.local())
        with engine.inference():
            assert torch.equal(engine.local()["0.weight"], averaged["0.weight"])
        assert torch.equal(engine.local()["0.weight"], averaged["0.weight"])
    assert not torch.equal(averaged["0.weight"], trained["0.weight"])
    assert torch.equal(engine.local()["0.weight"], trained["0.weight"])


@pytest.mark.parametrize("name", NAMES)
def test_a_group_freezes(name: str) -> None:
    settings = config(name)
    engine = PlainEngine(model(), settings, {"2.": Group(freeze_after=2)})
    seen = []
    for number in range(4):
        train(engine, settings, number, number + 1)
        seen.append(copies(engine.local()))
    assert not torch.equal(seen[0]["2.weight"], seen[1]["2.weight"])
    assert torch.equal(seen[1]["2.weight"], seen[3]["2.weight"])
    assert not torch.equal(seen[1]["0.weight"], seen[3]["0.weight"])


def test_a_group_has_its_own_rate_and_decay() -> None:
    settings = config("adamw", betas=(0.0, 0.0), weight_decay=0.5)
    engine = PlainEngine(model(), settings, {"2.": Group(rate=0.1, weight_decay=0.0)})
    before = copies(engine.local())
    train(engine, settings, 0, 1)
    moved = {name: (value - before[name]).abs().max() for name, value in engine.local().items()}
    rate = (
        settings.learning_rate
    )  # without averages AdamW steps by the rate times the gradient's sign, and decays
    assert float(moved["2.weight"]) == pytest.approx(0.1 * rate, rel=1e-3)
    assert (
        rate
        < float(moved["0.weight"])
        <= rate * (1 + 0.5 * float(before["0.weight"].abs().max())) * 1.001
    )


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_what_the_file_says(name: str) -> None:
    settings, facts = config(name), optimizers.facts(name)
    found = []
    for module in (nn.Linear(256, 256, bias=False), nn.Conv2d(64, 64, 3, bias=False)):
        net: Any = Layers(module)
        engine = PlainEngine(net, settings)
        inputs = torch.randn(2, 256) if isinstance(module, nn.Linear) else torch.randn(2, 64, 6, 6)
        loss = module(inputs).square().mean()
        engine.backward(loss)
        engine.step(settings.learning_rate, loss.detach(), 0)
        with engine.inference():
            state = sum(value.nbytes for _, value in engine.optimizer_state())
        found.append(state / sum(weight.numel() for weight in module.parameters()))
    assert (
        sum(found) / 2 <= 1.05 * facts.bytes
    )  # a U-Net has as many weights in convolutions as in matrices
    assert max(found) >= 0.95 * facts.bytes


@pytest.mark.parametrize("name", [name for name in NAMES if "8bit" in name])
def test_a_large_state_has_8_bits(name: str) -> None:
    settings = config(name)
    engine = PlainEngine(model(), settings)
    train(engine, settings, 0, 1)
    _, state = saved(engine)
    assert {state[f"0.weight|state{n}"].dtype for n in (1, 2)} == {torch.uint8}
    assert {state[f"2.weight|state{n}"].dtype for n in (1, 2)} == {torch.float32}  # 512 numbers


@pytest.mark.parametrize("name", [*NAMES, *OUTSIDE])
def test_zero_shards_what_can_be_cut_alone(name: str) -> None:
    if optimizers.facts(name).shards:
        TrainConfig(optimizer=name, engine="zero2")
    else:
        with pytest.raises(
            UserError, match=f"{name}.* cannot be cut into ZeRO shards.*zero2.*ddp"
        ):
            TrainConfig(optimizer=name, engine="zero2")


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
@pytest.mark.parametrize("name", SHARDED)
def test_shards_go_on_from_a_whole_state_and_back(name: str, stage: str) -> None:
    settings = config(name, max_grad_norm=None)
    unbroken = PlainEngine(model(), settings, groups(name))
    train(unbroken, settings, 0, 3)
    weights, state = saved(unbroken)
    small = model()
    small.load_state_dict(weights)
    sharded = engines.build(stage, "none", small, settings, 1, 1, groups(name))
    sharded.load_optimizer_state(state)
    train(sharded, settings, 3, 6)
    train(unbroken, settings, 3, 6)
    whole = {key: sharded.gather(part, key) for key, part in sharded.local().items()}
    for key, value in unbroken.local().items():
        torch.testing.assert_close(whole[key], value, rtol=0, atol=1e-5)
    (_, ours), (_, theirs) = saved(unbroken), saved(sharded)
    assert ours.keys() == theirs.keys()
    back = PlainEngine(model(), settings, groups(name))
    back.load_optimizer_state(theirs)
    for key, value in saved(back)[1].items():
        torch.testing.assert_close(value, ours[key], rtol=1e-3, atol=1e-6)


def test_zero_cannot_freeze_a_group() -> None:
    with pytest.raises(UserError, match=r"freeze_after.*ddp"):
        engines.build(
            "zero1", "none", model(), config("adamw"), 1, 1, {"2.": Group(freeze_after=2)}
        )


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ({"optimizer": "prodgy"}, ["train.optimizer", "Did you mean 'prodigy'?", "dotted path"]),
        ({"optimizer": "prodigy", "optimizer_options": {"d_coff": 2.0}},
        ["d_coff", "Did you mean 'd_coef'?", "growth_rate"]),
        ({"optimizer": "prodigy", "optimizer_options": {"d_coef": -1.0}},
        ["train.optimizer_options.d_coef = -1.0", "greater"]),
        ({"optimizer_options": {"fused": False}}, ["train.optimizer_options.fused", "adamw",
        "takes no options"]), ({"optimizer": "came", "betas": [0.9, 0.99]}, ["train.betas",
        "no effect", "came", "learning_rate, weight_decay"]),
        ({"optimizer": "lion", "epsilon": 1e-6}, ["train.epsilon = 1e-06", "no effect", "lion"]),
        ({"optimizer": "schedule_free", "ema": 0.9},
        ["schedule_free", "averages", "train.ema = 0.9"]),
        ({"optimizer": "lion", "precision": "bf16", "param_dtype": "bf16"},
        ["lion", "nearest", "'stochastic'"]), ({"optimizer": "torch.optim.SGD",
        "optimizer_options": {"momntum": 0.9}}, ["momntum", "Did you mean 'momentum'?"]),
        ({"optimizer": "torch.optim.SGD", "optimizer_options": {"momentum": -1}},
        ["torch.optim.SGD", "momentum", "-1"]), ({"optimizer": "torch.optim.SDG"}, ["SDG",
        "Did you mean 'SGD'?"]), ({"optimizer": "torch.optim.LBFGS"}, ["torch.optim.LBFGS",
        "cannot take a step"]), ({"optimizer": "no_such_package.Adam"}, ["no_such_package",
        "Install it"]), ({"optimizer": "pytorch_optimizer.SOAP"}, ["pytorch_optimizer.SOAP",
        "list", "checkpoint"]), ({"optimizer": "tests.train.test_optimizers.Forgetful"},
        ["Forgetful", "other steps than an unbroken one"]),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_words(train: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse({"output": "x", "model": {"path": "x"}, "train": train})
    for part in parts:
        assert part in str(caught.value)


class Forgetful(torch.optim.SGD):
    """Steps the more, the more steps it has taken, and keeps their number to itself."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr)
        self.taken = 0

    def step(self, closure: Any = None) -> None:
        self.taken += 1
        for group in self.param_groups:
            group["lr"] *= 1 + self.taken
        super().step(closure)


def test_groups_that_cannot_be_are_refused() -> None:
    for name in ("prodigy", "pytorch_optimizer.Prodigy"):
        with pytest.raises(UserError, match=r"one learning rate for all weights.*0\.5 times"):
            PlainEngine(model(), config(name), {"2.": Group(rate=0.5)})
    with pytest.raises(UserError, match="no weight decay"):
        PlainEngine(model(), config("torch.optim.Rprop"), {"2.": Group(weight_decay=0.1)})
    with pytest.raises(UserError, match="starts with 'text_encoder'"):
        PlainEngine(model(), config("adamw"), {"text_encoder": Group(rate=0.5)})


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_config_is_an_equal_one(name: str) -> None:
    made = parse({"output": "x", "model": {"path": "x"}, "train": {"optimizer": name}})
    assert parse(made.values()) == made
    own = optimizers.facts(name).defaults
    assert {key: getattr(made.train, key) for key in own} == dict(own)


def test_a_run_with_prodigy_resumes_bit_for_bit(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"optimizer": "prodigy", "learning_rate": 1.0, "optimizer_options": {"d0": 1e-4}}
    whole, broken = (run_config(name=name, train=train) for name in ("whole", "broken"))
    check_resume(whole, broken, monkeypatch)
    told = [path.read_text() for path in Path(whole.output, "notices").iterdir()]
    assert any("optimizer prodigy with a learning rate of 1." in text for text in told)


def test_looking_at_a_schedule_free_run_changes_nothing(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"optimizer": "schedule_free", "learning_rate": 1e-2}
    whole = run_config(name="whole", train={**train, "held_out_every": 0})
    broken = run_config(name="broken", train={**train, "held_out_every": 1})
    check_resume(whole, broken, monkeypatch)


@pytest.mark.parametrize("name", ["plain", "ddp", "zero2"])
def test_a_long_gradient_is_shortened_to_its_limit(name: str) -> None:
    """After one step AdamW's first moment is a tenth of the gradient."""

    def first(limit: float | None) -> tuple[float, float]:
        settings = config("adamw", max_grad_norm=limit, betas=(0.9, 0.999))
        engine = engines.build(name, "none", model(), settings, 1, 1)
        loss = loss_of(engine, 0)
        engine.backward(loss)
        told = float(engine.step(settings.learning_rate, loss.detach(), 0))
        moments = [value for key, value in saved(engine)[1].items() if key.endswith("|exp_avg")]
        return told, 10 * float(torch.cat([each.flatten() for each in moments]).norm())

    long, kept = first(None)
    assert long == pytest.approx(kept, rel=1e-4)
    for limit in (long / 4, 4 * long):
        told, left = first(limit)
        assert told == pytest.approx(long, rel=1e-4), "what is told is its length before"
        assert left == pytest.approx(min(limit, long), rel=1e-3)
