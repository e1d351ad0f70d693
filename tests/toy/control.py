"""Does a ControlNet learn to follow edges?

Trained on the toy world by `raytrain run`, its images are compared with the base's.

    python -m tests.toy.control --output runs/control

Base and ControlNet draw the same held-out captions from the same seeds; an image's edges are
compared with its control image's by the boundary F-measure (Martin et al. 2004, "Learning to
Detect Natural Image Boundaries"), within one pixel.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import tomli_w
import torch
from PIL import Image

from raytrain import checkpoint, sample
from raytrain.checkpoint import Learned
from raytrain.config import Config
from raytrain.config.file import load
from raytrain.data.loading.read import Dataset
from raytrain.evaluate.statistics import compare
from raytrain.model import Model
from raytrain.sampling.grid import grid, save_image
from raytrain.sampling.prompts import Prompt, prompts
from raytrain.toy import SD15
from raytrain.toy.draw import TRAINING_SIZES
from raytrain.toy.draw import draw as draw_scene

IMAGES, PROMPTS = 400, 16
CPU = torch.device("cpu")


def write_config(output: Path, seed: int, steps: int) -> Path:
    """Write the config of one run; all runs share a dataset."""
    path = output / f"seed-{seed}.toml"
    path.write_text(
        tomli_w.dumps({
            "seed": seed,
            "output": str(output / f"seed-{seed}"),
            "model": {"path": str(SD15)},
            "method": {"name": "controlnet"},
            "data": {
                "source": str(output / "images"),
                "dataset": str(output / "dataset"),
                "held_out": 0.15,
                "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48], [48, 80]]},
                "controls": {"kind": "canny"},
                "encode": {"batch": 16},
            },
            "train": {
                "steps": steps,
                "global_batch": 8,
                "learning_rate": 3e-3,
                "lr_schedule": "cosine",
                "warmup": 10,
                "score_every": steps,
                "held_out_every": steps,
                "checkpoint_every": steps,
            },
            "sample": {
                "steps": 20,
                "guidance_scale": 4.0,
                "max_prompts": PROMPTS,
                "batch": 8,
                "seed": 1000 * seed,
            },
            "evaluate": {"scorers": ["held_out_loss"], "timesteps": 4, "max_held_out": 24},
        })
    )  # fmt: skip
    return path


def draw_images(folder: Path) -> None:
    """Draw the flat world, which the base knows, at the size of training,
    where an edge is a whole pixel wide."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = list(TRAINING_SIZES.values())
    for number in range(IMAGES):
        image, caption = draw_scene(f"11/{number}", "flat", sizes[number % len(sizes)])
        image.save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(caption, encoding="utf-8")


def edges(image: Image.Image) -> np.ndarray:
    """Return where an image's edges are, (H, W) bool."""
    return np.asarray(cv2.Canny(np.asarray(image.convert("RGB")), 100, 200)) > 0


def agreement(drawn: np.ndarray, wanted: np.ndarray) -> float:
    """Return the harmonic mean of the shares of either edges that lie within a pixel of the
    other's, 0 to 1."""
    square = np.ones((3, 3), np.uint8)
    near_wanted, near_drawn = (
        cv2.dilate(each.astype(np.uint8), square) > 0 for each in (wanted, drawn)
    )
    precision = (drawn & near_wanted).sum() / max(1, drawn.sum())
    recall = (wanted & near_drawn).sum() / max(1, wanted.sum())
    return float(2 * precision * recall / max(1e-9, precision + recall))


def scores(images: list[Image.Image], asked: list[Prompt]) -> list[float]:
    """Return each image's agreement with its control image."""
    wanted = [np.asarray(prompt.inputs["control"].convert("L")) > 127 for prompt in asked]
    return [agreement(edges(image), each) for image, each in zip(images, wanted, strict=True)]


def draw(settings: Config, learned: Learned | None, asked: list[Prompt]) -> list[Image.Image]:
    """Return the images of a checkpoint, or of the base (None)."""
    model: Model = sample.load_model(settings, learned, CPU)
    with torch.no_grad():
        return sample.draw(settings, model, sample.build_pipeline(settings, model, CPU), asked)


def main() -> None:
    """Train once a seed, print how well edges are followed, and write a sheet of the first seed's
    images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for images, dataset and runs"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    draw_images(options.output / "images")
    for seed in range(options.seeds):
        path, begin = write_config(options.output, seed, options.steps), time.monotonic()
        subprocess.run([sys.executable, "-m", "jobs.cli", "run", path], check=True)
        settings = load(path)
        found = json.loads(Path(settings.output, "train.json").read_text())
        asked = prompts(settings, Dataset.of(settings))
        last = checkpoint.learned(settings.output)
        made = {"base": draw(settings, None, asked), "ControlNet": draw(settings, last, asked)}
        values = {side: scores(images, asked) for side, images in made.items()}
        result = compare(values["base"], values["ControlNet"], "higher", "edge agreement")
        print(
            f"seed {seed}: {options.steps} steps, {time.monotonic() - begin:.0f} s, held-out loss "
            f"{found['held_out_loss']:.4f}; edge agreement {result.base:.3f} -> "
            f"{result.base + result.mean:.3f}, difference {result.mean:.3f} [{result.low:.3f}, "
            f"{result.high:.3f}] over {result.count} images: {result.outcome}",
            flush=True,
        )
        if seed == 0:
            shown = [prompt.inputs["control"] for prompt in asked[:8]]
            rows = [shown, *(images[:8] for images in made.values())]
            save_image(
                grid(rows, ["control", *made], [prompt.text for prompt in asked[:8]]),
                str(options.output / "control.png"),
            )


if __name__ == "__main__":
    main()
