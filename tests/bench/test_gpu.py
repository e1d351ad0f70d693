"""The GPU benchmark works at a tiny size on a CPU, is of SDXL's size otherwise,
and says clearly where there is no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from tests.bench import gpu


@pytest.mark.slow
def test_tiny_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, trace = tmp_path / "gpu.json", tmp_path / "trace.json"
    arguments = [
        "--tiny",
        "--device",
        "cpu",
        "--batches",
        "1",
        "2",
        "--steps",
        "1",
        "--peak-tflops",
        "0.1",
    ]
    monkeypatch.setattr(
        sys, "argv", ["gpu", *arguments, "--output", str(output), "--trace", str(trace)]
    )
    gpu.main()
    figures = json.loads(output.read_text())
    assert [(one["batch"], one["checkpointing"]) for one in figures] == [
        (1, False),
        (2, False),
        (1, True),
        (2, True),
    ]
    assert all(one["images_per_second"] > 0 and one["tflops"] > 0 for one in figures)
    assert json.loads(trace.read_text())["traceEvents"]
    assert "aten::" in capsys.readouterr().out


def test_a_step_learns_the_lora_and_recomputation_changes_nothing() -> None:
    device, learned = torch.device("cpu"), []
    for checkpointing in (False, True):
        model = gpu.build(gpu.TINY, device)
        step = gpu.step_of(model, gpu.TINY, device, 2, checkpointing)
        weights = {name: w.clone() for name, w in model.named_parameters() if w.requires_grad}
        assert weights
        assert all("lora_" in name for name in weights)
        step()
        assert any(
            not torch.equal(w, weights[name])
            for name, w in model.named_parameters()
            if name in weights
        )
        learned.append(weights.keys())
    assert learned[0] == learned[1]


def test_sdxl_has_its_published_number_of_weights() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**gpu.COMMON, **gpu.SDXL)
    assert sum(weight.numel() for weight in unet.parameters()) == 2_567_463_684


def test_without_a_gpu_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
