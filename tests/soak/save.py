"""Kill training while it writes a checkpoint: each time the checkpoint before or the new one
loads, and training goes on.

One run of full fine-tuning that saves after every step is killed again and again, at a random
moment of a save, and always goes on from what it finds. At its end the rows it was trained on and
its losses are compared with a run that was left alone. Each process trains as a worker without Ray
does; processes are forked, so that a hundred kills take minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from raytrain import checkpoint
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.log import read_metrics
from raytrain.train import worker
from tests.soak import _training

IMAGES = 60
SHOWN = ("number", "step_before", "writing", "moment", "step_after", "resumed")
SAVES = 4
"""A process is killed in one of its first saves, up to this one."""
PATIENCE = 300.0
"""Seconds until a process must have begun to save."""


@dataclass(frozen=True)
class Kill:
    """One process that was killed while it wrote."""

    number: int
    step_before: int
    """Of the last whole checkpoint when the save began; -1: there was none."""
    writing: int
    """Step of the checkpoint that was being written."""
    moment: float
    """Seconds after the save had begun."""
    step_after: int
    """Of the newest checkpoint that loads."""
    resumed: bool
    """Whether that is one of the two, and the next process went on from it."""
    equal_ids: bool = False
    max_loss_difference: float = float("inf")
    """Of the whole run, known at its end."""


def soak(folder: Path, kills: int, size: int, seed: int, say: Callable[[str], None]) -> list[Kill]:
    """Kill a run that often; return what each kill came to."""
    chance = random.Random(seed)
    _prepare(folder, size, seed)
    undisturbed, disturbed = (
        _config(folder, name, kills) for name in ("undisturbed", "disturbed")
    )
    _end(_start(undisturbed))
    saves = [
        row["checkpoint_seconds"]
        for row in read_metrics(undisturbed.output)
        if "checkpoint_seconds" in row
    ]
    span = sorted(saves)[len(saves) // 2]
    say(f"undisturbed: {undisturbed.train.steps} steps, a save takes {1000 * span:.0f} ms")
    found: list[Kill] = []
    while len(found) < kills:
        kill = _strike(
            disturbed, len(found) + 1, chance.randint(1, SAVES), chance.uniform(0, span)
        )
        if (
            kill is None
        ):  # the save ended before its moment came, and the process was struck outside of one
            continue
        if found:  # what the kill before left is what this process went on from
            found[-1] = replace(
                found[-1], resumed=found[-1].resumed and kill.step_before >= found[-1].step_after
            )
        found.append(kill)
        say(
            f"kill {kill.number}: {1000 * kill.moment:.0f} ms into writing step {kill.writing}; "
            f"step {kill.step_after} loads"
        )
    _end(_start(disturbed))
    compared = _training.difference(disturbed, undisturbed)
    return [
        replace(kill, equal_ids=compared.equal_ids, max_loss_difference=compared.loss)
        for kill in found
    ]


def summary(kills: Sequence[Kill]) -> dict[str, object]:
    """Return what was promised, over all kills."""
    return {
        "resumed": sum(kill.resumed for kill in kills),
        "equal_ids": all(kill.equal_ids for kill in kills),
        "max_loss_difference": max(kill.max_loss_difference for kill in kills),
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every kill ended as it must."""
    return all(kill.resumed and kill.equal_ids and kill.max_loss_difference == 0 for kill in kills)


def _prepare(folder: Path, size: int, seed: int) -> None:
    from cluster.connect import connect
    from raytrain.data.prepare import prepare

    _training.images(folder, size, seed)
    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        prepare(_config(folder, "undisturbed", 1))


def _config(folder: Path, name: str, kills: int) -> Config:
    train = {
        "steps": SAVES * kills + 10,
        "global_batch": 2,
        "checkpoint_every": 1,
        "held_out_every": 0,
    }
    return _training.config(folder, name, method={"name": "full"}, train=train)


def _start(config: Config) -> ForkServerProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["raytrain.families.sd15", "raytrain.methods.full", "raytrain.train.worker"]
    )
    process = context.Process(target=_train, args=(config.values(),))
    process.start()
    return process


def _train(tree: dict[str, Any]) -> None:
    worker.train(parse(tree))


def _end(process: ForkServerProcess) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"training ended with {process.exitcode}")


def _strike(config: Config, number: int, save: int, moment: float) -> Kill | None:
    """Start training and kill it so many seconds after it began a save, its first is 1;
    None when that was already whole."""
    folder = Path(config.output, checkpoint.FOLDER)
    seen, earlier = list[str](), set(_temporary(folder))
    process = _start(config)
    deadline = time.monotonic() + PATIENCE
    while len(seen) < save:
        seen += [name for name in _temporary(folder) if name not in earlier and name not in seen]
        if process.exitcode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"training did not begin to save (exit code {process.exitcode})")
        time.sleep(0.0005)  # leave the processor to the training
    name = seen[-1]
    before = _newest(config)
    time.sleep(moment)
    process.kill()
    inside = (folder / name).exists()
    process.join()
    after = _newest(config)
    writing = int(name.removeprefix("step-").split(".")[0])
    if not inside:
        return None
    return Kill(number, before, writing, moment, after, resumed=after in (before, writing))


def _temporary(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if ".tmp-" in name]
    except FileNotFoundError:
        return []


def _newest(config: Config) -> int:
    """Return the step of the newest whole checkpoint, every tensor of it read; -1 without one."""
    found = checkpoint.listing(config.output)
    return checkpoint.load(found[-1]).step if found else -1
