"""Take a node away from a run and give one back, again and again:
the run shrinks to three workers and grows to four.

Four workers on the four nodes of a local cluster beside its head. The rows of the run must be
those of a run that was left alone, each at its step, and its losses within 1e-4: three workers add
up their gradients in another order than four.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.log import read_metrics
from raytrain.train.record import notices
from tests.soak import _training
from tests.soak._nodes import ROOT, Nodes, local_nodes

IMAGES = 60
WORKERS = 4
STEPS = 150
"""Of each loss and return of a node: enough to outlast both."""
TOLERANCE = 1e-4
PATIENCE = 600.0
SHOWN = (
    "number",
    "victim",
    "step",
    "shrunk_seconds",
    "step_back",
    "grown_seconds",
    "equal_ids",
    "max_loss_difference",
)


@dataclass(frozen=True)
class Kill:
    """What the loss of one node did."""

    number: int
    victim: str
    step: int
    """Steps done when it was lost."""
    shrunk_seconds: float
    """Until three workers trained."""
    step_back: int
    """Steps done when a node came back."""
    grown_seconds: float
    """Until four workers trained."""
    equal_ids: bool = False
    max_loss_difference: float = float("inf")
    """Of the whole run, known at its end."""


def soak(folder: Path, kills: int, size: int, seed: int, say: Callable[[str], None]) -> list[Kill]:
    """Train undisturbed, then with nodes that go and come; return what each loss came to."""
    chance = random.Random(seed)
    _training.images(folder, size, seed)
    with local_nodes(WORKERS) as nodes:
        undisturbed, disturbed = (
            _config(folder, name, nodes, kills) for name in ("undisturbed", "disturbed")
        )
        for job in ("prepare", "train"):
            _wait(_start(job, folder, undisturbed))
        say(f"undisturbed: {undisturbed.train.steps} steps")
        child = _start("train", folder, disturbed)
        found: list[Kill] = []
        try:
            for number in range(1, kills + 1):
                found.append(_lose(child, disturbed, number, chance, nodes))
                kill = found[-1]
                say(
                    f"kill {number}: {kill.victim} after step {kill.step}; three workers after "
                    f"{kill.shrunk_seconds} s, four again {kill.grown_seconds} s after a node was "
                    f"back at step {kill.step_back}"
                )
            _wait(child)
        finally:
            child.kill()
            child.wait()
    compared = _training.difference(disturbed, undisturbed)
    return [
        replace(kill, equal_ids=compared.equal_ids, max_loss_difference=compared.loss)
        for kill in found
    ]


def summary(kills: Sequence[Kill]) -> dict[str, object]:
    """Return what was promised, over all kills."""
    return {
        "resumed": len(kills),
        "equal_ids": all(kill.equal_ids for kill in kills),
        "max_loss_difference": max(kill.max_loss_difference for kill in kills),
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every kill ended as it must."""
    return all(kill.equal_ids and kill.max_loss_difference <= TOLERANCE for kill in kills)


def _lose(
    child: subprocess.Popen[bytes],
    config: Config,
    number: int,
    chance: random.Random,
    nodes: Nodes,
) -> Kill:
    launches = len(_sizes(config))
    begun = _steps(config)
    moment = begun + chance.randrange(5, 25)
    _until(child, lambda: _steps(config) >= moment)
    victim, step, lost = nodes.kill_node(chance), _steps(config), time.monotonic()
    _until(child, lambda: _sizes(config)[launches:][-1:] == [WORKERS - 1])
    shrunk = time.monotonic() - lost
    target = step + chance.randrange(5, 25)
    _until(child, lambda: _steps(config) >= target)
    step_back, back = _steps(config), time.monotonic()
    nodes.mend()
    _until(child, lambda: _sizes(config)[-1] == WORKERS)
    return Kill(
        number, victim, step, round(shrunk, 1), step_back, round(time.monotonic() - back, 1)
    )


def _config(folder: Path, name: str, nodes: Nodes, kills: int) -> Config:
    train = {
        "steps": STEPS * kills,
        "global_batch": 8,
        "workers": WORKERS,
        "min_workers": 2,
        "max_failures": 2 * kills,
        "checkpoint_every": 10,
        "held_out_every": 0,
    }
    return _training.config(folder, name, cluster={"address": nodes.address}, train=train)


def _start(job: str, folder: Path, config: Config) -> subprocess.Popen[bytes]:
    file = folder / f"{Path(config.output).name}.toml"
    file.write_text(to_toml(config))
    with (folder / "output.log").open("a") as output:
        return subprocess.Popen(
            [sys.executable, "-m", f"jobs.{job}", file], cwd=ROOT, stdout=output, stderr=output
        )


def _wait(child: subprocess.Popen[bytes]) -> None:
    if code := child.wait():
        raise RuntimeError(f"{child.args!r} ended with {code}")


def _until(child: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    started = time.monotonic()
    while not happened():
        if child.poll() is not None or time.monotonic() - started > PATIENCE:
            raise RuntimeError(f"training did not come so far (exit code {child.returncode})")
        time.sleep(0.1)


def _steps(config: Config) -> int:
    return sum("loss" in row for row in read_metrics(config.output))


def _sizes(config: Config) -> list[int]:
    """Return with how many workers the run was begun each time, as it told."""
    texts = [
        path.read_text() for path in sorted(Path(config.output, notices.FOLDER).glob("*.txt"))
    ]
    return [
        int(found[1])
        for text in texts
        if (found := re.match(r"Training with (\d+) workers? from", text))
    ]
