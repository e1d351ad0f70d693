"""What the soaks of training share: a small prepared dataset, a run's config,
and what two runs differ in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.log import read_metrics
from raytrain.toy import SD15
from raytrain.toy.draw import TRAINING_SIZES, draw_folder
from raytrain.train.record import sample_log


def images(folder: Path, size: int, seed: int) -> None:
    """Draw the images of a soak, in three shapes."""
    draw_folder(folder / "images", size, style="neon", seed=seed)


def config(folder: Path, name: str, **tables: dict[str, Any]) -> Config:
    """Return the config of a run of that name; all share a dataset."""
    tree = {
        "output": str(folder / name),
        "model": {"path": str(SD15)},
        "data": {
            "source": str(folder / "images"),
            "dataset": str(folder / "dataset"),
            "buckets": {
                "resolution": 64,
                "step": 16,
                "sizes": [list(size) for size in TRAINING_SIZES.values()],
            },
        },
        "sample": {"steps": 1, "max_prompts": 1},
        "evaluate": {"timesteps": 1, "max_held_out": 4},
        "log": {"tensorboard": False},
    }
    return parse(tree | tables)


@dataclass(frozen=True)
class Difference:
    """What a run that was disturbed differs in from one that was not."""

    equal_ids: bool
    """The same rows at the same steps, as the workers' logs have it."""
    loss: float
    """The largest difference of a step's loss; infinite where steps are missing."""


def difference(run: Config, undisturbed: Config) -> Difference:
    """Compare two finished runs."""
    own, other = (
        [(row["step"], row["loss"]) for row in read_metrics(one.output) if "loss" in row]
        for one in (run, undisturbed)
    )
    same_steps = [step for step, _ in own] == [step for step, _ in other]
    steps = len(other)
    logs = [sample_log.read(one.output, steps) for one in (run, undisturbed)]
    ids = [None if one is None else one.select(["step", "id", "occurrence"]) for one in logs]
    return Difference(
        equal_ids=ids[0] is not None and ids[0] == ids[1],
        loss=max(abs(a - b) for (_, a), (_, b) in zip(own, other, strict=True))
        if same_steps
        else float("inf"),
    )
