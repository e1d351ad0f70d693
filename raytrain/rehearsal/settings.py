"""What is rehearsed of a config, and when that is needless."""

from __future__ import annotations

from typing import Any

from raytrain import checkpoint, storage
from raytrain.config import Config, EvaluateConfig
from raytrain.config.file import parse
from raytrain.data import sources
from raytrain.data.item import Item
from raytrain.data.store.schema import Manifest, content_key
from raytrain.train.order import batch_sampler_of

FOLDER, DONE = "rehearsal", "rehearsed.json"
SMALL = 500
"""A job that reads fewer images in all, each once and those of its steps, is its own rehearsal."""
MOST_STEPS = 64
"""Steps of a rehearsal at most: one of each bucket."""
EPOCHS = 10
"""Of a config that names neither steps nor epochs."""


def needless(config: Config) -> str:
    """Return why a config need not be rehearsed before its run; empty where it should be."""
    output = config.output
    if checkpoint.listing(output):
        return f"{output} goes on from a checkpoint"
    done = storage.join(output, DONE)
    if storage.exists(done) and storage.read_json(done)["config"] == identity(config):
        return f"{output} was rehearsed with these settings"
    if (read := images_read(config)) < SMALL:
        return (
            f"the whole job reads {read} images, each once and those of its steps: under {SMALL}"
        )
    return ""


def identity(config: Config) -> str:
    """Return the hash over all settings."""
    return content_key(config.values())


def images_read(config: Config) -> int:
    """Return how many images preparing and the steps read together, or `SMALL` where more."""
    train, found, shown = config.train, 0, 0
    passes = config.data.repeats * (train.epochs or EPOCHS)
    steps = train.steps and train.steps * train.global_batch
    for subset in config.data.all_subsets():
        for item in sources.items(subset):
            if isinstance(item, Item):
                found, shown = found + 1, shown + item.repeats
            if found + (steps or shown * passes) >= SMALL:
                return SMALL
    return found + (steps or shown * passes)


def uses_scorers(config: Config) -> bool:
    """Return whether the config has its scorers used: during training, in a sweep, or by
    `raytrain evaluate`, for which it names scorers or their models."""
    own, usual = config.evaluate, EvaluateConfig()
    keys = ("scorers", "clip", "aesthetic")
    named = any(getattr(own, key) != getattr(usual, key) for key in keys)
    return bool(config.train.score_every.number or config.tune.space or named)


def rehearsed(config: Config, folder: str) -> Config:
    """Return the config in a folder of its own, as short as it can be; no filter by a score, as a
    few images may all fall below it. `lasting` sets its steps once the dataset is there."""
    tree = config.values()
    tree["output"] = storage.join(folder, "run")
    tree["data"] |= {
        "dataset": storage.join(folder, "dataset"), "snapshot": "latest", "partial": False,
        "repeats": 1,
    }  # fmt: skip
    tree["data"]["encode"]["publish_minutes"] = None
    for score in tree["data"]["quality"]["scores"]:
        score |= {"min": None, "max": None}
    tree["train"] |= {
        "epochs": None, "lr_schedule": "constant", "lr_schedule_power": None,
        "lr_schedule_cycles": None, "max_failures": 0, "keep_checkpoints": 2, "profile": 0,
        "compile": False, "async_validation": False, "log_every": 1, "held_out_every": 0,
        "sample_every": 0, "score_every": 0, "best_by": {"loss": -1.0},
    }  # fmt: skip
    tree["sample"] |= {
        "steps": min(2, config.sample.steps), "images_per_prompt": 1, "workers": 1,
    }  # fmt: skip
    tree["evaluate"] |= {"bootstrap": 100, "timesteps": 1, "max_held_out": 8, "max_references": 8}
    tree["log"] |= {"tensorboard": False, "wandb": "off", "metrics": False}
    return parse(tree)


def lasting(config: Config, manifest: Manifest, *, scored: bool) -> Config:
    """Return a rehearsed config with a step of each bucket, a checkpoint, and one step more, from
    which its last part goes on: with `scored` that ends with every scorer."""
    counts = {name: count.entries for name, count in manifest.buckets.items()}
    sampler = batch_sampler_of(_with(config, steps=MOST_STEPS), counts)
    seen: set[str] = set()
    steps = 0
    while seen != {name for name, count in counts.items() if count} and steps < MOST_STEPS - 1:
        seen.add(sampler.at(steps).bucket)
        steps += 1
    every = {"score_every": steps + 1} if scored else {}
    return _with(config, steps=steps + 1, checkpoint_every=steps, **every)


def _with(config: Config, **train: Any) -> Config:
    tree = config.values()
    tree["train"] |= train
    return parse(tree)
