"""Run two commands at once in one folder, again and again: each ends well or is refused in words,
and what they leave is whole.

Every pair starts from a copy of a prepared and half-trained run; the second command starts at a
random moment of the first. Afterwards the run is trained to its end, audited, exported and
compared with one that was left alone.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.export.run import export
from raytrain.toy import CLIP
from raytrain.train.record.audit import audit
from tests.soak import _training
from tests.soak._nodes import ROOT

IMAGES = 12
COMMANDS = ("prepare", "train", "tune", "evaluate", "export", "sample")
STEPS = 6
SHOWN = ("number", "first", "second", "delay", "codes", "refused", "well")
WAIT = "Wait for it"
"""What a refusal tells to do."""
LONGEST = 6.0
"""Seconds after the first that the second starts at the latest."""


@dataclass(frozen=True)
class Kill:
    """What two commands at once came to."""

    number: int
    first: str
    second: str
    delay: float
    codes: tuple[int, int]
    refused: str
    """What was said where one was refused."""
    faults: tuple[str, ...]
    """What must not be: a traceback, a broken promise, another loss."""

    @property
    def well(self) -> bool:
        """Tell whether nothing is wrong."""
        return not self.faults


def soak(folder: Path, kills: int, size: int, seed: int, say: Callable[[str], None]) -> list[Kill]:
    """Run that many pairs; return what each came to."""
    chance = random.Random(seed)
    _training.images(folder, size, seed)
    start = _config(folder, "start")
    calm = _config(folder, "calm")
    for command, steps in (("prepare", STEPS), ("train", STEPS // 2)):
        _alone(command, start, folder, steps)
    shutil.copytree(folder / "start", folder / "calm")
    _alone("train", calm, folder, STEPS)
    found = []
    for number in range(1, kills + 1):
        shutil.copytree(folder / "start", folder / f"pair-{number}")
        own = _config(folder, f"pair-{number}")
        first, second = chance.choice(COMMANDS), chance.choice(COMMANDS)
        delay = round(chance.uniform(0, LONGEST), 2)
        found.append(_pair(number, first, second, delay, own, calm, folder))
        say(" ".join(f"{name}={getattr(found[-1], name)}" for name in SHOWN))
        for fault in found[-1].faults:
            say(f"  {fault}")
        shutil.rmtree(folder / f"pair-{number}")
    return found


def summary(kills: Sequence[Kill]) -> dict[str, object]:
    """Return what was promised, over all pairs."""
    return {
        "well": sum(kill.well for kill in kills),
        "refused": sum(bool(kill.refused) for kill in kills),
        "faults": [fault for kill in kills for fault in kill.faults],
    }


def is_well(kills: Sequence[Kill]) -> bool:
    """Tell whether every pair ended as it must."""
    return all(kill.well for kill in kills)


def _pair(
    number: int, first: str, second: str, delay: float, own: Config, calm: Config, folder: Path
) -> Kill:
    one = _start(first, own, folder)
    time.sleep(delay)
    other = _start(second, own, folder)
    printed = [process.communicate()[0] for process in (one, other)]
    codes = (one.returncode, other.returncode)
    faults, refused = [], ""
    for name, code, text in zip((first, second), codes, printed, strict=True):
        if code == 2 and WAIT in text and "Traceback" not in text:
            refused = f"{name}: {text[text.index('error:') :].splitlines()[0]}"
        elif code or "Traceback" in text:
            faults.append(f"{name} ended with {code}:\n{text[-2000:]}")
    if all(codes):
        faults.append("both were refused")
    faults += _left(own, calm, folder)
    return Kill(number, first, second, delay, codes, refused, tuple(faults))


def _left(own: Config, calm: Config, folder: Path) -> list[str]:
    """Train on to the end and return what is wrong with what is there."""
    _alone("train", own, folder, STEPS)
    difference = _training.difference(own, calm)
    faults = list(audit(own).broken)
    if not difference.equal_ids or difference.loss:
        faults.append(f"the run differs from the one left alone: {difference}")
    if not export(own):
        faults.append("nothing is exported")
    return faults


def _config(folder: Path, name: str) -> Config:
    return _training.config(
        folder,
        name,
        data={
            "source": str(folder / "images"),
            "dataset": str(folder / name / "dataset"),
            "buckets": {"resolution": 64, "step": 16},
        },
        train={"steps": STEPS, "global_batch": 2, "checkpoint_every": 1, "keep_checkpoints": 2,
               "held_out_every": 3, "score_every": 0},
        evaluate={"clip": str(CLIP), "timesteps": 1, "max_held_out": 4, "bootstrap": 100},
        tune={"space": {"train.learning_rate": {"log": [1e-4, 1e-2]}}, "trials": 2,
              "objective": {"held_out_loss": -1.0}},
    )  # fmt: skip


def _start(command: str, config: Config, folder: Path) -> subprocess.Popen[str]:
    file = folder / f"{Path(config.output).name}.toml"
    file.write_text(to_toml(config))
    return subprocess.Popen(
        [sys.executable, "-m", f"jobs.{command}", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _alone(command: str, config: Config, folder: Path, steps: int) -> None:
    """Run a command by itself; RuntimeError where it fails."""
    shorter = config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
    process = _start(command, shorter, folder)
    printed = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}:\n{printed}")
