"""A checkpoint is read whole, beside a run that goes on and deletes its older ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain import checkpoint, storage
from raytrain.checkpoint import Checkpoint
from raytrain.errors import UserError


def save(run: Path, step: int) -> str:
    """Write a checkpoint whose weights are its step; the run keeps only this one."""
    state = {"step": step, "metrics": {"held_out_loss": 1.0 / step}, "config": {"train": {}}}
    return checkpoint.save(
        str(run), Checkpoint({"w": torch.tensor([float(step)])}, {}, state), keep=1
    )


@pytest.mark.parametrize("which", ["latest", "best"])
def test_a_newer_one_is_read_where_one_is_deleted_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    real = checkpoint._load_tensors
    asked = []

    def load(folder: str, name: str) -> dict[str, Any]:
        asked.append(folder)
        if len(asked) == 1:
            save(tmp_path, 2)
        return real(folder, name)

    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "_load_tensors", load)
    learned = checkpoint.learned(str(tmp_path), which)
    assert learned is not None
    assert len(asked) == 2
    assert (learned.weights["w"].item(), learned.state["step"]) == (2.0, 2)


def test_one_that_has_lost_a_file_is_told(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    storage.remove(storage.join(folder, "weights.safetensors"))
    with pytest.raises(UserError, match="was deleted while it was read"):
        checkpoint.learned(str(tmp_path))
    with pytest.raises(UserError, match="was deleted while it was read"):
        checkpoint.learned(str(tmp_path), folder)


def test_what_was_read_needs_no_file_any_more(tmp_path: Path) -> None:
    learned = checkpoint.learned(save(tmp_path, 3).rsplit("/", 2)[0])
    assert learned is not None
    storage.remove(str(tmp_path / "checkpoints"))
    assert learned.weights["w"].item() == 3.0
