"""Four steps are two, a resume, and two more: bit for bit, for every optimizer.

Across engines: `test_engines.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from raytrain import checkpoint, pretrained, storage
from raytrain.config import Config
from raytrain.errors import Diverged, UserError
from raytrain.log import read_metrics
from raytrain.model import base_hash
from raytrain.train import launch, worker
from tests.conftest import losses


class Killed(Exception):  # noqa: N818
    """Stands in for a process that ends between two steps."""


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    real = worker.optimizer_step

    def step(run: Any, *rest: Any) -> Any:
        if run.step == steps:
            raise Killed
        return real(run, *rest)

    monkeypatch.setattr(worker, "optimizer_step", step)


def check_resume(
    whole: Config, broken: Config, monkeypatch: pytest.MonkeyPatch, steps: int = 3
) -> None:
    """Train one run whole and another that ends after some steps, by default the third, and goes
    on; no bit may differ at the end."""
    worker.train(whole)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)  # 3: a step after the checkpoint at 2, which must be done again
        with pytest.raises(Killed):
            worker.train(broken)
    saved = steps - steps % broken.train.checkpoint_every.number
    assert checkpoint.load(checkpoint.find(broken.output) or "").step == saved
    worker.train(broken)
    assert losses(broken) == losses(whole)
    first, second = (checkpoint.load(checkpoint.find(c.output) or "") for c in (whole, broken))
    for name, value in first.weights.items():
        assert torch.equal(value, second.weights[name]), name
    for name, value in (first.ema or {}).items():
        assert torch.equal(value, (second.ema or {})[name]), name
    assert first.optimizer.keys() == second.optimizer.keys()
    assert all(
        torch.equal(value, second.optimizer[name]) for name, value in first.optimizer.items()
    )


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"optimizer": "adamw8bit", "ema": 0.9, "lr_schedule": "cosine", "warmup": 2},
        {"optimizer": "paged_adamw8bit", "memory_format": "channels_last"},
        {"precision": "bf16", "gradient_checkpointing": True, "micro_batch": 2},
    ],
    ids=["adamw", "adamw8bit-ema-cosine", "paged", "bf16-checkpointing-accumulation"],
)
def test_resume_is_bit_for_bit(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, train: dict[str, Any]
) -> None:
    check_resume(
        run_config(name="whole", train=train), run_config(name="broken", train=train), monkeypatch
    )


def test_a_resumed_run_must_be_the_same_run(run_config: Callable[..., Config]) -> None:
    config = run_config()
    worker.train(config)
    other = run_config(train={"learning_rate": 2e-2, "workers": 1})
    with pytest.raises(UserError, match=r"train\.learning_rate: 0\.01 -> 0\.02"):
        worker.train(other)


def test_a_checkpoint_of_an_earlier_version_goes_on(run_config: Callable[..., Config]) -> None:
    config = run_config()
    worker.train(config)
    folder = checkpoint.find(config.output) or ""
    state = checkpoint.read_state(folder)
    for key in ("param_dtype", "rounding"):
        del state["config"]["train"][key]
    checkpoint.check_same_run(state, config, state["dataset"], folder)
    coarse = run_config(train={"precision": "bf16", "param_dtype": "bf16"})
    with pytest.raises(UserError, match=r"train\.param_dtype: 'fp32' -> 'bf16'"):
        checkpoint.check_same_run(state, coarse, state["dataset"], folder)
    rules = config.data.captions.model_copy(update={"trigger": "sks", "dropped": "trigger"})
    data = config.data.model_copy(update={"captions": rules})
    with pytest.raises(UserError, match=r"data\.captions\.dropped: 'empty' -> 'trigger'"):
        checkpoint.check_same_run(
            state, config.model_copy(update={"data": data}), state["dataset"], folder
        )


def test_the_base_is_its_weights_not_its_path(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = run_config()
    shorter = {"steps": 2}
    launch.launch(run_config(train=shorter))
    moved = shutil.copytree(config.model.path, tmp_path / "moved")
    model = {**config.model.model_dump(), "path": str(moved)}
    launch.launch(run_config(train={"steps": 3}, model=model))
    [weights] = (moved / "unet").glob("*.safetensors")
    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, weights)
    pretrained._hash_folders.cache_clear()
    longer = run_config(train={"steps": 4}, model=model)
    with pytest.raises(UserError, match=f"base weights of '{moved}': .{{12}} -> "):
        launch.launch(longer)
    with pytest.raises(UserError, match="base weights of"):
        worker.train(longer)
    step = checkpoint.read_state(checkpoint.find(config.output) or "")["step"]
    assert step == 3


def test_text_encoders_are_of_the_base_where_they_learn(
    run_config: Callable[..., Config], tmp_path: Path
) -> None:
    plain = run_config()
    learning = run_config(method={"name": "lora", "rank": 4, "text_rank": 4})
    other = shutil.copytree(plain.model.path, tmp_path / "other")
    [weights] = (other / "text_encoder").glob("*.safetensors")
    tensors = load_file(weights)
    first = next(iter(tensors))
    save_file({**tensors, first: tensors[first] + 1}, weights)
    for config, same in ((plain, True), (learning, False)):
        model = config.model.model_copy(update={"path": str(other)})
        changed = config.model_copy(update={"model": model})
        assert (base_hash(changed) == base_hash(config)) == same


@pytest.mark.parametrize(
    "rounding", ["stochastic", "compensated", pytest.param("nearest", marks=pytest.mark.slow)]
)
def test_bf16_weights_resume_bit_for_bit(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, rounding: str
) -> None:
    train = {"precision": "bf16", "param_dtype": "bf16", "rounding": rounding}
    whole, broken = (run_config(name=name, train=train) for name in ("whole", "broken"))
    check_resume(whole, broken, monkeypatch)
    first = checkpoint.load(checkpoint.find(whole.output) or "")
    assert {str(value.dtype) for value in first.weights.values()} == {"torch.bfloat16"}
    told = [path.read_text() for path in Path(whole.output, "notices").iterdir()]
    assert any("are lost" in text for text in told) == (rounding == "nearest")


def test_fp16_scales_its_loss(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"precision": "fp16", "steps": 8, "held_out_every": 0}
    full = run_config(name="full", train={**train, "precision": "fp32"})
    worker.train(full)
    config = run_config(name="half", train=train)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Killed):
            worker.train(config)
    worker.train(config)
    assert losses(config) == pytest.approx(losses(full), abs=2e-2)
    state = checkpoint.read_state(checkpoint.find(config.output) or "")
    assert state["loss_scale"]["value"] > 1
    assert state["loss_scale"]["finite_steps"] <= 8


def test_interrupted_save_leaves_the_previous_checkpoint(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config()
    saves = 0
    real = checkpoint._save_tensors

    def save(tensors: Any, folder: str, name: str) -> None:
        nonlocal saves
        saves += 1
        if saves == 4:  # the second checkpoint's optimizer
            raise KeyboardInterrupt
        real(tensors, folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_save_tensors", save)
        with pytest.raises(KeyboardInterrupt):
            worker.train(config)
    folders = checkpoint.listing(config.output)
    assert [checkpoint.load(folder).step for folder in folders] == [2]
    assert storage.names(storage.join(config.output, "checkpoints")) == [
        "step-00000002"
    ]  # no litter
    worker.train(config)
    whole = run_config(name="whole")
    worker.train(whole)
    assert losses(config) == losses(whole)


def test_keeps_the_last_and_the_best(run_config: Callable[..., Config]) -> None:
    config = run_config(train={"keep_checkpoints": 1, "held_out_every": 2, "learning_rate": 0.3})
    worker.train(config)
    steps = [checkpoint.load(folder).step for folder in checkpoint.listing(config.output)]
    held_out = {
        row["step"]: row["held_out_loss"]
        for row in read_metrics(config.output)
        if "held_out_loss" in row
    }
    best = min((2, 4, 6), key=lambda step: held_out[step])
    assert steps == sorted({best, 6})
    assert checkpoint.read_state(checkpoint.find(config.output, "best") or "")["step"] == best


def test_diverged_before_the_optimizer_step(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config()
    monkeypatch.setattr(
        "raytrain.diffusion.loss.mean_squared_error",
        lambda p, t: (p - t).flatten(1).mean(1) * float("nan"),
    )
    with pytest.raises(Diverged, match=r"nan at step 1 .*learning rate.*train\.learning_rate"):
        worker.train(config)
    assert not checkpoint.listing(config.output)


def test_a_whole_run_leaves_what_the_report_reads(run_config: Callable[..., Config]) -> None:
    config = run_config(
        train={"sample_every": 3, "held_out_every": 3},
        log={"tensorboard": True, "wandb": "offline"},
    )
    result = worker.train(config)
    output = Path(config.output)
    assert {"config.toml", "environment.json", "metrics.jsonl", "train.json"} <= {
        path.name for path in output.iterdir()
    }
    assert sorted(path.name for path in (output / "samples").iterdir()) == [
        f"step-{n:08d}" for n in (0, 3, 6)
    ]
    assert (
        json.loads((output / "train.json").read_text())["held_out_loss"] == result["held_out_loss"]
    )
    assert list((output / "tensorboard").glob("events*"))
    assert list((output / "wandb").glob("offline-run-*/*.wandb"))


def test_scores_are_reported(run_config: Callable[..., Config]) -> None:
    config = run_config(
        train={"score_every": 3}, evaluate={"scorers": ["held_out_loss"], "timesteps": 1}
    )
    reports: list[dict[str, float]] = []
    worker.train(config, reports.append)
    assert [report["step"] for report in reports] == [3, 6]
    assert all(report["held_out_loss"] > 0 for report in reports)


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_is_judged_by_its_own_held_out_loss(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Steps 0 and 4 are better, but have no checkpoint; 3 and 6 have one, and late, 3 no loss."""
    train = {"checkpoint_every": 3, "held_out_every": 0 if late else 1, "keep_checkpoints": 9}
    config = run_config(train={**train, "steps": 6})
    by_step = {0: 1.0, 3: 2.0, 4: 1.0, 6: 3.0}

    def measured(run: Any) -> None:
        if run.step in by_step and not (late and run.step == 3):
            run.record({"held_out_loss": by_step[run.step]})

    monkeypatch.setattr("raytrain.train.hooks.periodic.held_out_loss", measured)
    worker.train(config)
    best = checkpoint.read_state(checkpoint.find(config.output, "best") or "")
    assert best["step"] == (6 if late else 3)
