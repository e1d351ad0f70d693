"""It learns: on the toy world a LoRA closes the gap between the base model and a style it never
saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.toy import CLIP, SD15
from raytrain.toy.draw import draw_folder
from tests.conftest import workers_here

STEPS = 110


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from raytrain.data.prepare import prepare

    root = tmp_path_factory.mktemp("toy")
    draw_folder(root / "images", 120, style="neon", seed=5)
    found = {
        "output": str(root / "base"),
        "model": {"path": str(SD15)},
        "method": {
            "name": "lora",
            "rank": 8,
            "targets": ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"],
        },
        "data": {
            "source": str(root / "images"),
            "dataset": str(root / "dataset"),
            "held_out": 0.2,
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48], [48, 80]]},
            "encode": {"batch": 16},
        },
        "sample": {
            "width": 64,
            "height": 64,
            "steps": 12,
            "guidance_scale": 4.0,
            "max_prompts": 24,
            "batch": 24,
        },
        "evaluate": {
            "clip": str(CLIP),
            "scorers": ["clip_text", "held_out_loss"],
            "max_held_out": 24,
        },
        "train": {
            "steps": STEPS,
            "global_batch": 8,
            "learning_rate": 5e-3,
            "warmup": 10,
            "lr_schedule": "cosine",
        },
        "log": {"tensorboard": False},
    }
    with workers_here():
        prepare(parse(found))
    return found


def with_seed(tables: dict[str, Any], root: Path, seed: int) -> Config:
    train = {
        **tables["train"],
        "score_every": STEPS,
        "checkpoint_every": STEPS,
    }  # no validation images on the way
    return parse({**tables, "output": str(root / str(seed)), "seed": seed, "train": train})


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3))]
)
def test_tuned_beats_base_beyond_the_intervals(
    tables: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    from raytrain.evaluate.run import evaluate
    from raytrain.train.worker import train

    config = with_seed(tables, tmp_path, seed)
    train(config)
    evaluate(config)
    report = storage.read_json(storage.join(config.output, "evaluation", "report.json"))
    base, tuned = report["base"], report["tuned"]
    assert tuned["held_out_loss"]["high"] < base["held_out_loss"]["low"]
    assert tuned["clip_text"]["low"] > base["clip_text"]["high"]


@pytest.mark.slow
def test_sweep_stops_a_hundredfold_rate_and_beats_the_default(
    ray: None, tables: dict[str, Any], tmp_path: Path
) -> None:
    from tuning.sweep import sweep

    train = {**tables["train"], "steps": 60, "learning_rate": 1e-3}
    config = parse(
        {
            **tables,
            "output": str(tmp_path / "sweep"),
            "train": train,
            "sample": {**tables["sample"], "max_prompts": 8},
            "tune": {
                "trials": 5,
                "concurrent": 2,
                "evaluations": 3,
                "seed": 3,
                "space": {"train.learning_rate": {"choice": [1e-3, 6e-3, 1e-1]}},
            },
        }
    )
    rows = sweep(config)
    hundredfold = [row for row in rows if row["parameters"]["train.learning_rate"] == 1e-1]
    assert hundredfold
    assert all(row["state"] == "stopped" for row in hundredfold)
    default = next(row for row in rows if row["default"])
    assert rows[0]["score"] > default["score"]
    assert rows[0]["parameters"]["train.learning_rate"] == 6e-3
    assert storage.exists(storage.join(config.output, "tune", "winner.toml"))
