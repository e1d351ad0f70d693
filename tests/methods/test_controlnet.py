"""A ControlNet begins without effect, learns its own weights alone,
goes on bit for bit and draws after control images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from raytrain import checkpoint, families, model, plugins, sample
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.evaluate.run import evaluate
from raytrain.methods import _denoise
from raytrain.methods.controlnet import BRANCH
from raytrain.model import Model
from raytrain.plan import plan
from raytrain.sampling.prompts import prompts
from raytrain.train import worker
from tests.conftest import workers_here
from tests.train.test_resume import check_resume

FAMILIES = [
    each for each in plugins.names("families") if hasattr(families.load(each), "control_branch")
]
CPU = torch.device("cpu")
Make = Callable[..., Config]


@pytest.fixture
def make(world: Callable[[str], dict[str, Any]], tmp_path: Path) -> Make:
    """Return a maker of configs of a ControlNet's run on a dataset with edges as control
    images."""

    def config(family: str = "sd15", name: str = "run", **tables: dict[str, Any]) -> Config:
        base = world(family)
        data = {
            **base["data"],
            "dataset": f"{base['data']['dataset']}-canny",
            "controls": {"kind": "canny", "options": {"low": 40.0, "high": 80.0}},
        }
        train = {"steps": 4, "global_batch": 4, "learning_rate": 1e-3, "checkpoint_every": 2}
        settings = {
            **base,
            "output": str(tmp_path / name),
            "method": {"name": "controlnet", **tables.pop("method", {})},
            "data": {**data, **tables.pop("data", {})},
            "sample": {
                "steps": 1,
                "max_prompts": 2,
                "guidance_scale": 2.0,
                **tables.pop("sample", {}),
            },
            "evaluate": {"scorers": ["held_out_loss"], "timesteps": 1, "max_held_out": 4},
            "log": {"tensorboard": False},
            "train": {**train, **tables.pop("train", {})},
            **tables,
        }
        made = parse(settings)
        if not Path(data["dataset"]).exists():
            shutil.copytree(
                base["data"]["dataset"], data["dataset"]
            )  # all but the edges is encoded there
            with workers_here():
                prepare(
                    parse(
                        {**settings, "data": data, "method": {"name": "controlnet"}, "sample": {}}
                    )
                )
        return made

    return config


def begin(config: Config) -> tuple[Model, Batch, Columns]:
    """Return a run's model as it begins, its first batch and that batch's draws."""
    made = model.build(config, CPU)
    dataset = Dataset(config.dataset)
    loader = Loader(
        dataset, BatchSampler(dataset.counts(), batch=4, seed=0, steps=1), columns=made.columns
    )
    batch = loader.step(0).batch
    assert batch.columns["control"].dtype == torch.uint8
    assert int(batch.columns["control"].max()) > 0
    return made, batch, made.draw(batch)


def base_losses(made: Model, batch: Batch, draws: Columns) -> Tensor:
    return _denoise.losses(made.objective, made.parts, batch, draws, made.config)


def shake(part: torch.nn.Module) -> None:
    """Give a branch weights that are heard."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in part.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_the_base_bit_for_bit(make: Make, family: str) -> None:
    made, batch, draws = begin(make(family))
    with torch.no_grad():
        expected = base_losses(made, batch, draws)
        assert torch.equal(made(batch, draws), expected)
        shake(made.parts[BRANCH])
        assert (made(batch, draws) - expected).abs().min() > 1e-4
        made.config = made.config.model_copy(update={"scale": 0.0})
        assert torch.equal(made(batch, draws), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_the_first_step_the_zero_layers_alone_learn(make: Make, family: str) -> None:
    made, batch, draws = begin(make(family))
    made(batch, draws).sum().backward()
    weights = made.learning()
    assert all(name.startswith(f"{BRANCH}.") for name in weights)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert all(
        weight.grad is None
        for name, weight in made.named_parameters()
        if f".{BRANCH}." not in name
    )
    copied = {f"{BRANCH}.{name}" for name in made.denoiser.state_dict()} & weights.keys()
    assert len(copied) > 10
    # A zero layer is what passes the copied layers' output on: it learns, and nothing behind it
    # does.
    assert not any(
        weights[name].grad.abs().any() for name in copied if weights[name].grad is not None
    )
    zero = [
        name
        for name in weights.keys() - copied
        if not weights[name].any() and name.endswith("weight")
    ]
    heard = [
        name for name in zero if weights[name].grad is not None and weights[name].grad.abs().any()
    ]
    assert len(heard) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_activations_give_the_same_gradients(make: Make, family: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        made, batch, draws = begin(make(family))
        shake(made.parts[BRANCH])
        if checkpointing:
            made.checkpoint_activations()
        made(batch, draws).sum().backward()
        return {
            name: weight.grad
            for name, weight in made.learning().items()
            if weight.grad is not None
        }

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(value, recomputed[name]) for name, value in plain.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_goes_on_bit_for_bit(
    make: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resume(make(family, "whole"), make(family, "broken"), monkeypatch)


def test_a_branch_learns_in_bf16_beside_a_quantized_base(make: Make) -> None:
    model_table = {
        name: value for name, value in make().values()["model"].items() if value is not None
    }
    train = {"precision": "bf16", "gradient_checkpointing": True, "micro_batch": 2, "steps": 1}
    config = make(train=train, model={**model_table, "quantize": "nf4"}, sample={"max_prompts": 1})
    worker.train(config)
    weights = checkpoint.load(checkpoint.find(config.output) or "").weights
    assert all(name.startswith(f"{BRANCH}.") for name in weights)
    assert {value.dtype for value in weights.values()} == {torch.float32}


# Half the widest gap between two levels: 1/254 of the largest weight, and of NF4 (1 - 0.696) / 2
# and what its scales lose.
@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.005), ("nf4", 0.16)])
def test_the_copy_of_a_quantized_base_has_its_weights(
    make: Make, kind: str, tolerance: float
) -> None:
    config = make()
    exact = model.build(config, CPU).parts[BRANCH].state_dict()
    settings = config.model.model_copy(update={"quantize": kind})
    branch = (
        model.build(config.model_copy(update={"model": settings}), CPU).parts[BRANCH].state_dict()
    )
    apart = {name: (exact[name] - value).abs().max() / exact[name].abs().max().clamp(min=1e-6)
             for name, value in branch.items()}  # fmt: skip
    assert max(apart.values()) < tolerance
    assert max(apart.values()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_validation_draws_after_control_images(make: Make, family: str) -> None:
    config = make(family, train={"steps": 2, "learning_rate": 0.05})
    dataset = Dataset(config.dataset)
    worker.train(config)
    asked = prompts(config, dataset)
    steps = [Path(config.output, "samples", f"step-{step:08d}") for step in (0, 2)]
    first, last = (
        [np.asarray(Image.open(folder / f"{n:03d}.png")) for n in range(2)] for folder in steps
    )
    plain = config.model_copy(
        update={"method": parse({**config.values(), "method": {"name": "full"}}).method}
    )
    base = sample.load_model(plain, None, CPU)
    drawn = sample.draw(plain, base, sample.build_pipeline(plain, base, CPU), asked)
    for number, image in enumerate(drawn):
        assert np.array_equal(first[number], np.asarray(image)), (
            "a branch as it begins draws what the base draws"
        )
        assert not np.array_equal(first[number], last[number])
    stored = {image.tobytes() for image in _stored_controls(dataset)}
    assert all(prompt.inputs["control"].tobytes() in stored for prompt in asked)
    with Image.open(steps[0] / "grid.png") as sheet:
        tile = 3 * asked[0].size[1]
        assert sheet.height > 2 * tile, "the control image is beside its result"
    assert Path(sample.sample(config)).is_file()
    evaluate(config)
    with Image.open(Path(config.output, "evaluation", "base-vs-tuned.png")) as sheet:
        assert sheet.height > 3 * tile


def _stored_controls(dataset: Dataset) -> list[Image.Image]:
    found = []
    for bucket, count in dataset.counts("held_out").items():
        rows = dataset.rows(
            bucket, np.arange(count), "held_out", columns=("latents", "text", "control")
        )
        found += [
            Image.fromarray(each.transpose(1, 2, 0).copy()) for each in rows.columns["control"]
        ]
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_depends_on_its_prompt_alone(make: Make, family: str) -> None:
    config = make(family)
    made = sample.load_model(config, None, CPU)
    shake(made.parts[BRANCH])
    pipeline, asked = (
        sample.build_pipeline(config, made, CPU),
        prompts(config, Dataset(config.dataset)),
    )
    drawn = []
    for state in (1, 2):
        torch.manual_seed(state)
        drawn.append([image.tobytes() for image in sample.draw(config, made, pipeline, asked)])
    assert drawn[0] == drawn[1]
    flipped = [
        replace(prompt, inputs={"control": ImageOps.invert(prompt.inputs["control"])})
        for prompt in asked
    ]
    other = [image.tobytes() for image in sample.draw(config, made, pipeline, flipped)]
    assert not set(other) & set(drawn[0])


def test_a_saved_branch_draws_the_same_in_diffusers(make: Make, tmp_path: Path) -> None:
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    config = make()
    made = sample.load_model(config, None, CPU)
    shake(made.parts[BRANCH])
    asked = prompts(config, Dataset(config.dataset))
    live = sample.draw(config, made, sample.build_pipeline(config, made, CPU), asked)
    made.parts[BRANCH].save_pretrained(tmp_path / "branch")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        config.model.path,
        controlnet=ControlNetModel.from_pretrained(tmp_path / "branch"),
        safety_checker=None,
    )
    for prompt, image in zip(asked, live, strict=True):
        other = pipeline(
            prompt.text,
            prompt.inputs["control"],
            width=prompt.size[0],
            height=prompt.size[1],
            num_inference_steps=1,
            guidance_scale=2.0,
            generator=torch.Generator().manual_seed(prompt.seed),
        ).images[0]
        apart = np.asarray(image).astype(int) - np.asarray(other).astype(int)
        assert np.abs(apart).max() <= 1
    again = model.build(make(method={"path": str(tmp_path / "branch")}), CPU)
    saved = made.parts[BRANCH].state_dict()
    assert all(
        torch.equal(value, saved[name]) for name, value in again.parts[BRANCH].state_dict().items()
    )


def test_a_foreign_branch_is_told_in_words(make: Make, tmp_path: Path) -> None:
    other = model.build(make("sdxl"), CPU).parts[BRANCH]
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"made for another base model: its '.*' is"):
        model.build(make(method={"path": str(tmp_path / "other")}), CPU)
    with pytest.raises(UserError, match=r"it has no config\.json"):
        model.build(make(method={"path": str(tmp_path)}), CPU)
    with pytest.raises(UserError, match="holds a UNet2DConditionModel"):
        model.build(make(method={"path": f"{make().model.path}/unet"}), CPU)


def test_a_family_without_the_verb_is_told_in_words(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(families.load("sd15"), "control_branch")
    with pytest.raises(UserError, match=r"has no function 'control_branch'.*sdxl"):
        model.build(make(), CPU)


def test_a_dataset_without_control_images_is_told_before_a_step(
    make: Make, world: Callable[[str], dict[str, Any]]
) -> None:
    config = make(data={"dataset": world("sd15")["data"]["dataset"]})
    for stage in (plan, worker.train):
        with pytest.raises(UserError, match=r"reads column 'control'.*`raytrain prepare` again"):
            stage(config)
    assert not Path(config.output, "samples").exists()
