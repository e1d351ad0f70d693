"""What every method keeps, whatever it learns: a new file in `raytrain/methods` is tested here
without a change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raytrain import families, methods, plugins
from raytrain.artifacts import Embeddings
from raytrain.batch import Batch
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.methods import _denoise
from raytrain.model import Model, build
from tests import batches
from tests.cases import CASES, IDS, built

CPU = torch.device("cpu")
STEPS = 3
"""A layer behind a zero layer that is itself behind one, as in a ControlNet's hint encoder,
moves at the third step."""


@dataclass
class Trial:
    """A method that was trained for a few steps, and what was seen of it on the way."""

    config: Config
    model: Model
    batch: Batch
    first: Tensor
    """Losses of the untrained model on captions without new words."""
    base: Tensor
    """The same of the base model."""
    whole: dict[str, Tensor]
    """Gradients of a batch as one micro-batch."""
    pieces: dict[str, Tensor]
    """And as micro-batches of one row."""
    before: dict[str, Tensor]
    """All weights and buffers before the first step."""
    drew: list[str]
    """What drew a global random number."""


def random_state() -> tuple[Any, ...]:
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numbers[1].tolist(), numbers[2]  # type: ignore[index]


@contextmanager
def watched(what: str, drew: list[str]) -> Iterator[None]:
    state = random_state()
    yield
    if random_state() != state:
        drew.append(what)


def everything(model: nn.Module) -> dict[str, Tensor]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def gradients(model: Model, parts: list[Batch], batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    draws = model.draw(batch).split(len(parts[0].ids))
    for part, drawn in zip(parts, draws, strict=True):
        model(part, drawn).sum().backward()
    found = {name: weight.grad for name, weight in model.learning().items()}
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def base_losses(model: Model, batch: Batch, config: Config) -> Tensor:
    """Return the base model's losses; it encodes text where the method's model does."""
    objective = model.objective
    family = objective.family
    parts: dict[str, nn.Module] = {
        name: family.load(config.model, name, torch.float32).eval()
        for name in model.parts
        if name in family.PARTS
    }
    with torch.no_grad():
        return _denoise.losses(objective, parts, batch, model.draw(batch), config.method)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker (kept for the module) of a folder with a family's tiny model."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            families.load(family).tiny(str(made[family] / "model"))
        return made[family]

    return make


def new_words(model: Model, config: Config) -> list[str]:
    found = model.method.artifacts(model.state(), config.method, model.objective.family)
    return [
        word for artifact in found if isinstance(artifact, Embeddings) for word in artifact.vectors
    ]


@pytest.fixture(scope="module", params=CASES, ids=IDS)
def trial(request: pytest.FixtureRequest, folder: Callable[[str], Path]) -> Trial:
    drew: list[str] = []
    for family in plugins.names("families"):
        folder(family)
    with watched("build", drew):
        config, model = built(request.param, folder)
    plain = batches.make(config)
    with watched("losses", drew), torch.no_grad():
        first = model(plain, model.draw(plain))
    base = base_losses(model, plain, config) if model.method.FREEZES_BASE else first
    batch = batches.make(config, words=new_words(model, config))
    whole, pieces = gradients(model, [batch], batch), gradients(model, batch.split(1), batch)
    before = everything(model)
    optimizer = torch.optim.AdamW(model.learning().values(), lr=1e-2, weight_decay=0)
    with watched("steps", drew):
        for _ in range(STEPS):
            gradients(model, [batch], batch)
            optimizer.step()
    return Trial(config, model, batch, first, base, whole, pieces, before, drew)


def test_step_0_is_the_base_where_the_base_is_frozen(trial: Trial) -> None:
    torch.testing.assert_close(trial.first, trial.base, rtol=1e-6, atol=1e-6)


def test_all_that_learns_moves_and_nothing_else(trial: Trial) -> None:
    learning = {id(weight) for weight in trial.model.learning().values()}
    moves = {name for name, weight in trial.model.named_parameters() if id(weight) in learning}
    assert moves
    assert all(weight.dtype == torch.float32 for weight in trial.model.learning().values())
    after = everything(trial.model)
    assert after.keys() == trial.before.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, trial.before[name]) != (name in moves), name


def test_a_batch_in_pieces_gives_the_same_gradients(trial: Trial) -> None:
    assert trial.whole.keys() == trial.pieces.keys() == trial.model.learning().keys()
    largest = max(float(gradient.abs().max()) for gradient in trial.whole.values())
    for name, gradient in trial.whole.items():
        torch.testing.assert_close(
            trial.pieces[name], gradient, rtol=1e-4, atol=1e-6 * largest, msg=name
        )


def test_what_was_learned_goes_into_a_new_model(trial: Trial) -> None:
    again = build(trial.config, CPU)
    state = {name: tensor.clone() for name, tensor in trial.model.state().items()}
    again.load(state)
    assert again.state().keys() == state.keys()
    draws = trial.model.draw(trial.batch)
    with torch.no_grad():
        assert torch.equal(again(trial.batch, draws), trial.model(trial.batch, draws))


def test_recomputed_activations_change_nothing(trial: Trial) -> None:
    again = build(trial.config, CPU)
    again.load(trial.model.state())
    drew: list[str] = []
    expected = gradients(again, [trial.batch], trial.batch)
    again.checkpoint_activations()
    with watched("recomputing", drew):
        found = gradients(again, [trial.batch], trial.batch)
    assert not drew
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_no_global_random_number_is_drawn(trial: Trial) -> None:
    assert not trial.drew


def test_every_group_has_weights(trial: Trial) -> None:
    names = trial.model.state().keys()
    for prefix in methods.load(trial.config.method).groups(trial.config.method):
        assert any(name.startswith(prefix) for name in names), prefix


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"name": "lora", "conv_alpha": 2.0}, "conv_rank"),
        (
            {"name": "lora", "text_alpha": 2.0, "text_rate": 0.5},
            "text_alpha, text_rate would have no effect",
        ),
        ({"name": "lokr", "conv_alpha": 2.0}, "conv_rank"),
    ],
)
def test_a_key_without_effect_is_refused(table: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        parse({"output": "o", "model": {"path": "m"}, "method": table})


def test_factors_of_weights_are_not_learned_on_quantized_layers(
    folder: Callable[[str], Path],
) -> None:
    model = {"family": "sd15", "path": str(folder("sd15") / "model"), "quantize": "nf4"}
    for name in ("loha", "lokr"):
        config = parse({"output": "o", "model": model, "method": {"name": name}})
        with pytest.raises(UserError, match=r"model\.quantize"):
            build(config, CPU)


@pytest.mark.parametrize(("init", "rank"), [("gaussian", 4), ("gaussian", 16), ("kaiming", 16)])
def test_a_lora_starts_as_its_init_says(
    folder: Callable[[str], Path], init: str, rank: int
) -> None:
    """Gaussian: a normal of deviation 1 / rank, as diffusers' scripts have it; kaiming: uniform
    within 1 / sqrt(inputs). B is zero for both."""
    config = parse({
        "output": "run",
        "model": {"family": "sd15", "path": str(folder("sd15") / "model")},
        "method": {"name": "lora", "rank": rank, "init": init},
    })  # fmt: skip
    state = build(config, torch.device("cpu")).state()
    ups = [value for name, value in state.items() if "lora_B" in name]
    downs = [value for name, value in state.items() if "lora_A" in name]
    assert ups
    assert not any(up.any() for up in ups)
    if init == "gaussian":
        every = torch.cat([down.flatten() for down in downs]) * rank
        assert float(every.std()) == pytest.approx(1, abs=0.05)
        assert 0.6 < float((every.abs() < 1).float().mean()) < 0.75  # of a normal: 0.683
    else:
        for down in downs:
            bound = down.shape[1] ** -0.5
            assert 0.9 * bound < float(down.abs().max()) <= bound
