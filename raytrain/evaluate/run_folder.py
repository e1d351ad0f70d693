"""What a run folder holds for the report: every part is optional,
a part that is not there is empty."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from raytrain import storage
from raytrain.config import Config
from raytrain.data.store import schema, tables
from raytrain.data.store.snapshot import read_manifest
from raytrain.evaluate.statistics import Difference
from raytrain.log import read_metrics

EVALUATION = "evaluation"
REPORT = "report.json"
MAX_GRIDS = 8
"""Validation grids shown; more are thinned evenly, first and last kept."""
MAX_PAIRS = 24
TRIAL: dict[str, Any] = {
    "number": 0,
    "state": "",
    "score": None,
    "scores": {},
    "parameters": {},
    "steps": None,
    "seconds": None,
    "default": False,
}
"""A leaderboard row's fields, for the ones it leaves out."""
PAIR_SIDE, GRID_SIDE = 640, 1280
"""Longest side of an embedded image in pixels; larger ones are scaled down."""


@dataclass
class Pair:
    """One prompt's base and tuned image as data URIs."""

    prompt: str
    base_prompt: str
    seed: int
    base: str
    tuned: str
    width: int
    height: int


@dataclass
class Grid:
    """The validation images of one step."""

    step: int
    image: str
    width: int
    height: int


@dataclass
class RunFolder:
    """Everything read."""

    metrics: list[dict[str, Any]] = field(default_factory=list)
    """Rows {"step", "loss", "learning_rate", "held_out_loss", scorer names ...} in file order."""
    evaluation: dict[str, Any] = field(default_factory=dict)
    """`evaluation/report.json`."""
    pairs: list[Pair] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    manifest: schema.Manifest | None = None
    rejected: list[tuple[str, int]] = field(default_factory=list)
    """Reasons images were left out, with counts, most frequent first."""
    trials: list[dict[str, Any]] = field(default_factory=list)
    """`tune/leaderboard.json`, best first."""
    environment: dict[str, Any] = field(default_factory=dict)
    """`environment.json`: versions and commit the run was made with."""


def read(config: Config) -> RunFolder:
    """Read the run folder of a config."""
    evaluation = _json(storage.join(config.output, EVALUATION, REPORT), {})
    manifest = read_manifest(config.dataset)
    return RunFolder(
        metrics=read_metrics(config.output),
        evaluation=evaluation,
        pairs=_pairs(config.output, evaluation),
        grids=_grids(config.output),
        manifest=manifest,
        rejected=[]
        if manifest is None
        else _rejected(storage.join(config.dataset, manifest.rejected_path)),
        trials=[
            TRIAL | trial
            for trial in _json(storage.join(config.output, "tune", "leaderboard.json"), [])
        ],
        environment=_json(storage.join(config.output, "environment.json"), {}),
    )


def differences(evaluation: dict[str, Any]) -> dict[str, Difference]:
    """Return an evaluation's comparison by scorer, in the order the config names them."""
    found = evaluation.get("differences", {})
    order = evaluation.get("config", {}).get("evaluate", {}).get("scorers", list(found))
    return {name: Difference(**found[name]) for name in order if name in found}


def data_uri(image: Image.Image, side: int) -> str:
    """Return an image as a data URI, its longest side at most `side`; small ones without loss."""
    image = image.convert("RGB")
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=max(image.size) <= 160, quality=90)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _json(uri: str, default: Any) -> Any:
    return storage.read_json(uri) if storage.exists(uri) else default


def _open(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(storage.read_bytes(uri)))


def _pairs(output: str, evaluation: dict[str, Any]) -> list[Pair]:
    pairs = []
    for entry in evaluation.get("images", [])[:MAX_PAIRS]:
        files = [storage.join(output, EVALUATION, entry[side]) for side in ("base", "tuned")]
        if all(map(storage.exists, files)):
            base, tuned = map(_open, files)
            width, height = tuned.size
            before, after = data_uri(base, PAIR_SIDE), data_uri(tuned, PAIR_SIDE)
            texts = (entry["prompt"], entry.get("base_prompt", entry["prompt"]))
            pairs.append(Pair(*texts, entry["seed"], before, after, width, height))
    return pairs


def _grids(output: str) -> list[Grid]:
    folder = storage.join(output, "samples")
    steps = {
        int(m[1]): name
        for name in storage.names(folder)
        if (m := re.fullmatch(r"step-(\d+)", name))
    }
    files = {step: storage.join(folder, name, "grid.png") for step, name in sorted(steps.items())}
    found = [(step, file) for step, file in files.items() if storage.exists(file)]
    if len(found) > MAX_GRIDS:
        found = [found[round(i * (len(found) - 1) / (MAX_GRIDS - 1))] for i in range(MAX_GRIDS)]
    grids = []
    for step, file in found:
        image = _open(file)
        grids.append(Grid(step, data_uri(image, GRID_SIDE), *image.size))
    return grids


def _rejected(uri: str) -> list[tuple[str, int]]:
    return Counter(row["reason"] for row in tables.read(uri, tables.REJECTED)).most_common()
