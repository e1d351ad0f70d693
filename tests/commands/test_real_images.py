"""Real photographs through every command a user would type, on a tiny sdxl folder,
in processes of this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import sklearn.datasets
from PIL import Image
from safetensors import safe_open

from raytrain import families, storage
from raytrain.config.file import parse, to_toml
from raytrain.data.captioners import blip
from raytrain.data.loading.read import Dataset
from raytrain.data.store import tables
from raytrain.toy import CLIP
from tests.soak._nodes import ROOT

PHOTOGRAPHS = {
    "astronaut.png": "an astronaut in an orange suit", "chelsea.png": "a tabby cat looking up",
    "coffee.png": "a cup of coffee on a table", "rocket.jpg": "a rocket on its launch pad",
    "hubble_deep_field.jpg": "many galaxies in deep space",
    "motorcycle_left.png": "a motorcycle in a garage",
    "ihc.png": "stained tissue under a microscope", "retina.jpg": "the retina of an eye",
    "brick.png": "a brick wall", "grass.png": "grass", "gravel.png": "gravel",
    "coins.png": "ancient coins", "china.jpg": "a chinese temple",
    "flower.jpg": "a flower in a garden",
}  # fmt: skip
SHAPES = ((120, 120), (150, 100), (100, 150))
IMAGES = 24
STAGES = ("sample", "evaluate", "tune")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of real photographs in three shapes, every second one with a sidecar caption."""
    folder = tmp_path_factory.mktemp("photographs")
    sources = [
        Path(skimage.__file__).parent / "data",
        Path(sklearn.datasets.__file__).parent / "images",
    ]
    random = np.random.default_rng(0)
    files = [
        next(source / name for source in sources if (source / name).exists())
        for name in PHOTOGRAPHS
    ]
    for number in range(IMAGES):
        file, (width, height) = files[number % len(files)], SHAPES[number % 3]
        with Image.open(file) as photograph:
            left, top = (int(random.integers(0, side - part + 1)) for side, part in
                         zip(photograph.size, (width, height), strict=True))  # fmt: skip
            photograph.convert("RGB").crop((left, top, left + width, top + height)).save(
                folder / f"{number:03}.jpg"
            )
        if number % 2:
            (folder / f"{number:03}.txt").write_text(PHOTOGRAPHS[file.name])
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    families.load("sdxl").tiny(str(folder / "sdxl"))
    blip.tiny(str(folder / "blip"))
    return folder


def write_config(folder: Path, photographs: Path, models: Path) -> str:
    tables: dict[str, Any] = {
        "output": str(folder / "run"),
        "model": {"family": "sdxl", "path": str(models / "sdxl")},
        "method": {"name": "lora"},
        "data": {
            "source": str(photographs),
            "dataset": str(folder / "dataset"),
            "buckets": {"step": 16, "sizes": [[64, 64], [96, 64], [64, 96]]},
            "captions": {
                "captioner": "blip",
                "path": str(models / "blip"),
                "num_beams": 1,
                "max_new_tokens": 5,
            },
            "encode": {"batch": 16},
        },
        "train": {"steps": 6, "global_batch": 4, "learning_rate": 1e-3, "checkpoint_every": 3},
        "sample": {"steps": 2, "max_prompts": 3, "guidance_scale": 2.0},
        "evaluate": {
            "clip": str(CLIP),
            "timesteps": 1,
            "max_held_out": 8,
            "max_references": 8,
            "bootstrap": 100,
        },
        "tune": {
            "trials": 2,
            "evaluations": 2,
            "stopper": "median",
            "space": {"train.learning_rate": {"log": [1e-4, 1e-2]}},
        },
        "export": {"formats": ["diffusers", "kohya"]},
    }
    path = folder / "config.toml"
    path.write_text(to_toml(parse(tables)))
    return str(path)


def by_subprocess(stage: str, config: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        f"jobs.{stage}",
        config,
        *(word for key in overrides for word in ("--set", key)),
    ]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def check_results(folder: Path, models: Path) -> None:
    output = folder / "run"
    dataset = Dataset(str(folder / "dataset"))
    assert (
        sum(dataset.counts("train").values()) + sum(dataset.counts("held_out").values()) == IMAGES
    )
    assert set(dataset.counts()) == {"64x64", "96x64", "64x96"}
    captions = [
        row["captions"][0] for split in ("train", "held_out") for row in dataset.details(split)
    ]
    assert sum(caption in PHOTOGRAPHS.values() for caption in captions) == IMAGES // 2
    annotations = list(tables.read(str(folder / "dataset" / "annotations"), tables.ANNOTATIONS))
    assert (
        len(annotations) == IMAGES // 2
    )  # the captioner was asked about the other half; random weights may say nothing
    assert sum(map(bool, captions)) == IMAGES // 2 + sum(
        bool(made["texts"][0]) for made in annotations
    )
    for name in (
        "train.json",
        "report.html",
        "images/grid.png",
        "evaluation/report.json",
        "tune/winner.toml",
    ):
        assert (output / name).stat().st_size > 0, name
    assert len(storage.read_json(str(output / "tune" / "leaderboard.json"))) == 2
    from diffusers import StableDiffusionXLPipeline

    pipe = StableDiffusionXLPipeline.from_pretrained(models / "sdxl")
    pipe.load_lora_weights(str(output / "export"), weight_name="pytorch_lora_weights.safetensors")
    assert pipe.get_active_adapters()
    assert (output / "export" / "run.safetensors").exists()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.mark.timeout(2400)  # five commands: a minute on a quiet machine
def test_every_stage_by_command(photographs: Path, models: Path, place: Path) -> None:
    config = write_config(place, photographs, models)
    (photographs / "broken.png").write_bytes(b"no image")
    stopped = by_subprocess("run", config)
    assert stopped.returncode == 3
    assert "broken.png" in stopped.stdout
    assert stopped.stderr.count("Stopped before training: broken images") == 1
    assert not (place / "run" / "checkpoints").exists()
    whole = by_subprocess("run", config, "data.allow_rejected=true")
    assert whole.returncode == 0, whole.stderr
    assert not whole.stderr
    weights = place / "run" / "export" / "pytorch_lora_weights.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["raytrain.step"] == "6"
    assert str(weights) in whole.stdout
    assert "load_lora_weights" in whole.stdout
    for stage in STAGES:
        done = by_subprocess(stage, config, "data.allow_rejected=true")
        assert done.returncode == 0, f"{stage}: {done.stdout[-2000:]} {done.stderr[-3000:]}"
    check_results(place, models)
