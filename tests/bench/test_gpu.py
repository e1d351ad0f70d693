"""The GPU benchmark works at a tiny size on a CPU, is of the published sizes otherwise,
and says clearly where there is no GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from raytrain.model import public_name
from raytrain.train import cost
from tests.bench import gpu, published

WEIGHTS = {"sd15": 859_520_964, "sdxl": 2_567_463_684, "sd3": 2_028_328_000}
"""Of the denoisers, as they are published."""


@pytest.mark.slow
def test_tiny_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, trace = tmp_path / "gpu.json", tmp_path / "trace.json"
    arguments = ["sdxl", "--tiny", "--device", "cpu", "--batches", "1", "2", "--steps", "1"]
    more = ["--peak-tflops", "0.1", "--output", str(output), "--trace", str(trace)]
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments, *more])
    gpu.main()
    figures = json.loads(output.read_text())
    cases = [(one["batch"], one["checkpointing"]) for one in figures]
    assert cases == [(1, False), (2, False), (1, True), (2, True)]
    assert all(one["images_per_second"] > 0 and one["tflops"] > 0 for one in figures)
    assert json.loads(trace.read_text())["traceEvents"]
    assert "aten::" in capsys.readouterr().out


@pytest.mark.parametrize("family", published.PUBLISHED)
def test_the_sizes_are_the_published_ones(family: str, tmp_path: Path) -> None:
    config = published.config(family, published.write_folder(family, tmp_path))
    named = cost.skeleton(config).denoiser.named_parameters()
    assert (
        sum(weight.numel() for name, weight in named if "lora_" not in public_name(name))
        == WEIGHTS[family]
    )


def test_without_a_gpu_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu", "sdxl"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err
