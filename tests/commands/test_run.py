"""One command from a folder of pictures to exported weights, in processes of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

from raytrain.configfile import parse, to_toml
from raytrain.families import sd15
from raytrain.toy.draw import draw_folder
from tests.soak._nodes import ROOT


def run(config: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.run", str(config), *(word for key in overrides for word in ("--set", key))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def write_config(folder: Path, **tables: dict[str, Any]) -> Path:
    sd15.tiny(str(folder / "model"))
    draw_folder(folder / "pictures", 12, style="neon", seed=0)
    tree = {
        "output": str(folder / "run"),
        "model": {"path": str(folder / "model")},
        "method": {"name": "lora", "rank": 2},
        "data": {"source": str(folder / "pictures"), "buckets": {"resolution": 64, "step": 16}},
        "train": {"steps": 4, "global_batch": 4},
        "sample": {"max_prompts": 1, "steps": 1},
    }
    path = folder / "config.toml"
    path.write_text(to_toml(parse(tree | tables)))
    return path


def test_a_folder_becomes_weights_in_one_command_and_what_is_done_is_kept(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no picture")
    stopped = run(config)
    assert stopped.returncode == 3
    assert "broken.png" in stopped.stdout
    assert stopped.stderr.startswith("Stopped before training: broken pictures")
    assert not (tmp_path / "run" / "checkpoints").exists()
    whole = run(config, "data.allow_rejected=true")
    assert whole.returncode == 0, whole.stderr
    assert not whole.stderr
    weights = tmp_path / "run" / "export" / "pytorch_lora_weights.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["raytrain.step"] == "4"
    assert str(weights) in whole.stdout
    assert "load_lora_weights" in whole.stdout
    again = run(config, "data.allow_rejected=true")
    assert again.returncode == 0, again.stderr
    assert "already trained" in again.stdout
