"""What the comparison with diffusers' script leans on; its figures are measured, not tested."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.bench import diffusers_lora, stand_in
from tests.bench.first_step import FIRST_STEP, PHASES, durations, watch


def test_the_stand_in_resizes_cuts_and_scales_as_torchvision_does() -> None:
    pixels = np.zeros((30, 60, 3), np.uint8)
    pixels[:, 15:45] = 255  # what a cut at the center keeps
    transform = stand_in.Compose([
        stand_in.Resize(20, stand_in.InterpolationMode.LANCZOS),
        stand_in.CenterCrop(20),
        stand_in.Lambda(lambda image: image),
        stand_in.ToTensor(),
        stand_in.Normalize([0.5], [0.5]),
    ])  # fmt: skip
    tensor = transform(Image.fromarray(pixels))
    assert tensor.shape == (3, 20, 20)
    assert torch.equal(tensor[:, :, 3:-3], torch.ones(3, 20, 14))


def test_loras_of_other_shapes_are_not_called_the_same(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    save_file({"unet.a.lora_A.weight": torch.zeros(4, 8)}, one)
    save_file({"unet.a.lora.down.weight": torch.ones(4, 8)}, same)
    save_file({"unet.a.lora_A.weight": torch.zeros(2, 8)}, other)
    diffusers_lora.check_same(one, same)
    with pytest.raises(RuntimeError, match="not LoRAs of one shape"):
        diffusers_lora.check_same(one, other)


def test_a_watched_command_shows_its_marks_and_its_processor_time(tmp_path: Path) -> None:
    code = "import time\nprint('begun', flush=True)\nwhile time.process_time() < 0.6: pass"
    seen = watch(
        [sys.executable, "-c", code], lambda printed: ["begun"] if "begun" in printed else []
    )
    assert 0 < seen.marks["begun"] < seen.seconds
    assert seen.processor > 0.3
    with pytest.raises(RuntimeError, match="no such thing"):
        watch([sys.executable, "-c", "raise SystemExit('no such thing')"], lambda _: ())


def test_phases_add_up_to_the_last_mark_also_where_one_was_missed() -> None:
    marks = {"config.toml": 8.0, FIRST_STEP: 9.0, "train.json": 10.0, "exit": 12.0}
    found = durations(marks)
    assert list(found) == list(PHASES)
    assert found["command imports and checks"] == 0.0
    assert found["worker imports, loads the model"] == 8.0
    assert sum(found.values()) == 12.0
