"""From a checkpoint on disk to files and to the words that say how to load them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from jobs.export import main
from raytrain import checkpoint
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.errors import UserError
from raytrain.export.run import export
from tests.export.conftest import Tuned


def saved(tuned: Tuned, output: Path, *, ema: bool) -> Config:
    """Write the tuned weights as a checkpoint (its average is their double)
    and return the run's config."""
    average = {name: 2 * weight for name, weight in tuned.weights.items()} if ema else None
    state = {**tuned.state, "metrics": {"held_out_loss": 0.1}, "versions": {}}
    checkpoint.save(str(output), checkpoint.Checkpoint(tuned.weights, {}, state, average), keep=2)
    return tuned.config.model_copy(update={"output": str(output)})


def assert_holds(path: str, tuned: Tuned, factor: float) -> None:
    """The scale alpha / rank, a half here, is in the first factor."""
    tensors = load_file(path)
    for name, weight in tuned.weights.items():
        assert torch.equal(tensors[name], weight * factor * (0.5 if "lora_A" in name else 1)), name


@pytest.mark.parametrize("ema", [True, False])
def test_export_writes_every_format_and_prefers_the_average(
    ema: bool, tune: Callable[..., Tuned], tmp_path: Path
) -> None:
    tuned = tune("sd15")
    paths = [each.path for each in export(saved(tuned, tmp_path / "run", ema=ema))]
    folder = tmp_path / "run" / "export"
    assert paths == [
        str(folder / "pytorch_lora_weights.safetensors"),
        str(folder / "run.safetensors"),
    ]
    assert_holds(paths[0], tuned, 2 if ema else 1)
    with safe_open(paths[0], "pt") as file:
        assert file.metadata()["raytrain.ema"] == str(ema)


def test_average_can_be_declined(tune: Callable[..., Tuned], tmp_path: Path) -> None:
    tuned = tune("sd15")
    config = saved(tuned, tmp_path / "run", ema=True)
    config = config.model_copy(update={"export": config.export.model_copy(update={"ema": False})})
    assert_holds(export(config, "best")[0].path, tuned, 1)


def test_the_base_model_is_nothing_to_export(tune: Callable[..., Tuned], tmp_path: Path) -> None:
    config = saved(tune("sd15"), tmp_path / "run", ema=False)
    with pytest.raises(UserError, match="base model alone"):
        export(config, "base")


def test_the_job_says_what_it_wrote_and_how_to_load_it(
    tune: Callable[..., Tuned], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = saved(tune("sd15"), tmp_path / "run", ema=False)
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert main([str(file)]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "run" / "export" / "run.safetensors") in printed
    assert f'pipe.load_lora_weights("{tmp_path / "run" / "export"}")' in printed
    assert "ComfyUI" in printed


def test_a_run_without_checkpoints_is_a_users_mistake(
    tune: Callable[..., Tuned], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tune("sd15").config.model_copy(update={"output": str(tmp_path / "nothing")})
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    assert main([str(file)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
