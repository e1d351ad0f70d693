"""What checkpoints written while training goes on, and images made on a separate actor,
cost a run.

A whole model is trained, so that a checkpoint is 29 MB and the actor gets 10 MB. Two figures each:
the run's speed against that of a run without, where writer and actor also compete for the
machine's cores; and the run's speed against what it were if the hooks' calls took no time, which
is what the training process itself pays.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from raytrain.config.file import parse
from raytrain.config.period import Every
from raytrain.train import worker
from raytrain.train.hooks import periodic
from raytrain.train.hooks.periodic import Hook
from raytrain.train.run import Run, start
from tests.bench.train_step import prepared

Sides = tuple[Callable[[], float], Callable[[], float]]
BATCH = 16
"""A step of about 0.2 s on one core."""
SAVE_EVERY, SAMPLE_EVERY = 20, 40


class Runs:
    """Short runs from one config, each in a folder of its own."""

    def __init__(self, folder: Path, quick: bool, **train: Any) -> None:
        self._steps = 4 if quick else 80
        settings = {"steps": self._steps, "global_batch": BATCH, "learning_rate": 1e-4, **train}
        self._tables = prepared(folder, 24 if quick else 120, {"name": "full"}, settings)
        self._tables["sample"] = {"steps": 2 if quick else 15, "max_prompts": 1 if quick else 4}
        self._folder, self._numbers = folder, itertools.count()
        self._seconds = self._called = 0.0

    def speed(self, make: Callable[[Run, ExitStack], list[Hook]]) -> float:
        """Train with some hooks; returns steps per second, the start and the end not counted."""
        run = start(
            parse({**self._tables, "output": str(self._folder / f"run-{next(self._numbers)}")}),
            0,
            1,
        )
        with ExitStack() as stack:
            stack.callback(run.close)
            made = [self._timed(hook) for hook in make(run, stack)]
            self._called = 0.0
            began = time.perf_counter()
            worker.loop(run, made)
            self._seconds = time.perf_counter() - began
        return self._steps / self._seconds

    def uncalled(self) -> float:
        """Return the last run's steps per second if its hooks' calls had taken no time."""
        return self._steps / (self._seconds - self._called)

    def _timed(self, hook: Hook) -> Hook:
        def call(run: Run) -> None:
            began = time.perf_counter()
            hook.call(run)
            self._called += time.perf_counter() - began

        return replace(hook, call=call)


def setup_save(folder: Path, quick: bool) -> Sides:
    """Return the speed with a checkpoint every 20 steps, and without any."""
    runs = Runs(folder, quick)
    return (lambda: runs.speed(_saving)), (lambda: runs.speed(lambda run, stack: []))


def setup_save_call(folder: Path, quick: bool) -> Sides:
    """Return the speed with a checkpoint every 20 steps, and the same without the time of the
    calls."""
    runs = Runs(folder, quick)
    return (lambda: runs.speed(_saving)), runs.uncalled


def setup_async(folder: Path, quick: bool) -> Sides:
    """Return the speed with four images made on an actor every 40 steps, and without any."""
    runs = Runs(folder, quick, **_async(quick))
    return (lambda: runs.speed(_sampling)), (lambda: runs.speed(lambda run, stack: []))


def setup_async_call(folder: Path, quick: bool) -> Sides:
    """Return the speed with four images made on an actor every 40 steps,
    and the same without the time of the calls."""
    runs = Runs(folder, quick, **_async(quick))
    return (lambda: runs.speed(_sampling)), runs.uncalled


def _async(quick: bool) -> dict[str, Any]:
    return {"async_validation": True, "sample_every": 2 if quick else SAMPLE_EVERY}


def _saving(run: Run, stack: ExitStack) -> list[Hook]:
    return [Hook("checkpoint", Run.save, Every(SAVE_EVERY))]


def _sampling(run: Run, stack: ExitStack) -> list[Hook]:
    """Return the run's own hooks for images; the actor is at work already,
    as after the first minute of a long run."""
    from cluster.connect import connect

    stack.enter_context(connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False))
    found = {hook.name: hook for hook in stack.enter_context(periodic.build(run, None))}
    wanted = [found["sample"], found["async_validation"]]
    for hook in wanted:
        hook.call(run)
    first = Path(run.config.output, "samples", "step-00000000", "prompts.json")
    while not first.exists():
        time.sleep(0.1)
    return [replace(hook, at_start=False) for hook in wanted]
