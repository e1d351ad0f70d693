"""A run folder with every part a report can show, drawn by hand: no model runs."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image, ImageDraw

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.evaluate.statistics import compare, summarize

PROMPTS = (
    "a red circle on a cream background, flat",
    "two green triangles beside a lake at dusk, linocut print with visible carving marks and a "
    "narrow border",
    'a blue square <b>& "quotes"</b>',
    "an orange star",
    "a violet hexagon on a slate background",
    "",
)
COLORS = ("#d4483b", "#3f8f5b", "#3c62c4", "#e08a2c", "#7a4fb5", "#888888")


def image(color: str, side: int, tuned: bool) -> Image.Image:
    canvas = Image.new("RGB", (side, side), "#efe6d2" if tuned else "#cfd3d8")
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((side * 0.2, side * 0.2, side * 0.8, side * 0.8), fill=color)
    if tuned:
        for y in range(0, side, max(2, side // 16)):
            draw.line((0, y, side, y), fill="#00000022", width=max(1, side // 64))
    return canvas


def build(folder: Path, side: int = 256, sweep: bool = True, steps: int = 600) -> Config:
    rng = random.Random(3)
    config = parse(
        {
            "output": str(folder / "style-run"),
            "model": {"path": "models/base"},
            "data": {"source": "images", "buckets": {"resolution": 256}},
            "train": {"steps": steps, "learning_rate": 3e-4},
            "tune": {"space": {"train.learning_rate": {"log": [1e-5, 1e-2]}}},
        }
    )
    output = Path(config.output)
    _metrics(output, steps, rng)
    _evaluation(output, side, rng)
    for step in (0, steps // 2, steps):
        grid = Image.new("RGB", (4 * side, side))
        for column, color in enumerate(COLORS[:4]):
            grid.paste(image(color, side, step > 0), (column * side, 0))
        _save(grid, output / "samples" / f"step-{step}" / "grid.png")
    _dataset(output)
    if sweep:
        _leaderboard(output, rng)
    return config


def _metrics(output: Path, steps: int, rng: random.Random) -> None:
    rows = []
    for step in range(0, steps + 1, 2):
        row = {
            "step": step,
            "loss": 0.09 + 0.12 * math.exp(-step / 150) + rng.gauss(0, 0.02),
            "learning_rate": 3e-4 * min(1, (step + 1) / 60),
        }
        if step % (steps // 10) == 0:
            fall = 0.19 * math.exp(-step / 120) + 0.1 + 0.00003 * max(0, step - 360)
            row |= {"held_out_loss": fall, "clip_text": 0.22 + 0.08 * (1 - math.exp(-step / 100))}
        rows.append(json.dumps(row))
    output.mkdir(parents=True)
    (output / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 6', encoding="utf-8")


def _evaluation(output: Path, side: int, rng: random.Random) -> None:
    images = []
    for i, prompt in enumerate(PROMPTS):
        for kind in ("base", "tuned"):
            _save(
                image(COLORS[i], side, kind == "tuned"),
                output / "evaluation" / kind / f"{i:03d}.png",
            )
        images.append(
            {
                "prompt": prompt,
                "base_prompt": prompt,
                "seed": i,
                "base": f"base/{i:03d}.png",
                "tuned": f"tuned/{i:03d}.png",
            }
        )
    report: dict[str, object] = {
        "images": images,
        "checkpoint": "checkpoint-600",
        "base": {},
        "tuned": {},
        "differences": {},
    }
    for name, label, better, mean, gain in (
        ("clip_text", "Text alignment", "higher", 0.24, 0.05),
        ("clip_image", "Training-image alignment", "higher", 0.61, 0.12),
        ("diversity", "Diversity", "higher", 0.38, -0.004),
        ("held_out_loss", "Held-out loss", "lower", 0.19, -0.06),
    ):
        base = [mean + rng.gauss(0, 0.03) for _ in range(16)]
        tuned = [value + gain + rng.gauss(0, 0.015) for value in base]
        report["base"][name] = summarize(base, better, label).values()  # type: ignore[index,arg-type]
        report["tuned"][name] = summarize(tuned, better, label).values()  # type: ignore[index,arg-type]
        report["differences"][name] = compare(base, tuned, better, label).values()  # type: ignore[index,arg-type]
    (output / "evaluation" / "report.json").write_text(json.dumps(report), encoding="utf-8")


def _dataset(output: Path) -> None:
    folder = output / "dataset"
    folder.mkdir()
    buckets = {
        "256x256": {"train": 181, "held_out": 20},
        "192x320": {"train": 64, "held_out": 7},
        "320x192": {"train": 22, "held_out": 3},
    }
    manifest = {
        "family": "sd15", "fingerprint": "c0ffee" * 10,
        "buckets": buckets, "rejected": 3,
        "shards": [{"path": "x.parquet", "bucket": "256x256", "rows": 297, "bytes": 8_123_456}],
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    reasons = ["damaged image: OSError: image file is truncated (12 bytes not processed)"] * 2 + [
        "the file is empty"
    ]
    table = pyarrow.table({"path": ["a", "b", "c"], "reason": reasons})
    pyarrow.parquet.write_table(table, folder / "rejected.parquet")


def _leaderboard(output: Path, rng: random.Random) -> None:
    trials = []
    for number in range(14):
        rate = 1e-4 if number == 0 else 10 ** rng.uniform(-5, -2)
        rank, schedule = rng.choice((4, 8, 16, 32)), rng.choice(("constant", "cosine"))
        score = (
            0.4
            - 0.12 * abs(math.log10(rate) + 3.4)
            + 0.01 * (schedule == "cosine")
            + rng.gauss(0, 0.01)
        )
        state = "failed" if number == 9 else "stopped" if score < 0.28 else "completed"
        trials.append(
            {
                "number": number,
                "state": state,
                "score": None if state == "failed" else score,
                "scores": {}
                if state == "failed"
                else {"clip_text": 0.2 + score / 4, "held_out_loss": 0.3 - score / 3},
                "parameters": {
                    "train.learning_rate": rate,
                    "method.rank": rank,
                    "train.lr_schedule": schedule,
                },
                "steps": 120 if state == "stopped" else 600,
                "seconds": 70.4,
                "default": number == 0,
            }
        )
    trials.sort(
        key=lambda trial: -math.inf if trial["score"] is None else float(trial["score"]),
        reverse=True,
    )
    (output / "tune").mkdir()
    (output / "tune" / "leaderboard.json").write_text(json.dumps(trials), encoding="utf-8")


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
