"""How long after the command a local run takes its first step, and where the time goes:
`python -m tests.bench.first_step`.

A toy dataset is prepared, then `python -m jobs.train` runs as a user starts it, a few times, each
in a folder of its own. Nothing of ours is patched: what happens when is seen from outside, by its
processes and the files the run writes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from raytrain.config.file import parse, to_toml
from raytrain.log import METRICS
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder
from tests.bench.__main__ import machine

POLL, SHOWN = 0.2, 10
FIRST_STEP = "first step"
HEAD = 2**16
"""Bytes of a run's metrics that are looked at: looking often must not cost what is measured."""
WORKER = "raytrain.train.worker"
PHASES = {
    "command imports and checks": WORKER,
    "worker imports, loads the model": "config.toml",
    "first hooks, first step": FIRST_STEP,
    "other steps and the last checkpoint": "train.json",
    "end": "exit",
}
"""What happens -> the mark that ends it: a process's name, a file or a row of metrics."""


class Seen(NamedTuple):
    """What was seen of a command."""

    marks: dict[str, float]
    """Mark -> seconds after the command began."""
    processes: dict[str, float]
    """Process -> its processor seconds until the first step, else to the end:
    the command and every process below it."""
    processor: float
    """Processor seconds of all of them to the end."""
    printed: str
    """What the command printed."""

    @property
    def seconds(self) -> float:
        """Seconds from the command to its end."""
        return self.marks["exit"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.first_step", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", default="first_step.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raytrain-first-") as folder:
        config = write_config(Path(folder))
        stage("prepare", config)
        runs = [train(config, f"{folder}/run-{number}") for number in range(options.repeats)]
    phases = [durations(seen.marks) for seen in runs]
    figures: dict[str, Any] = {
        "first_step": [seen.marks[FIRST_STEP] for seen in runs],
        "processor": [sum(seen.processes.values()) for seen in runs],
        "phases": phases,
        "processes": [seen.processes for seen in runs],
    }
    table = Table("phase", "seconds", title=f"medians of {options.repeats}, {machine()}")
    for name in PHASES:
        table.add_row(name, f"{statistics.median(run[name] for run in phases):.1f}")
    table.add_row(
        "command to first step", f"{statistics.median(figures['first_step']):.1f}", style="bold"
    )
    table.add_row(
        "until then on all cores", f"{statistics.median(figures['processor']):.1f}", style="bold"
    )
    for name, seconds in sorted(runs[0].processes.items(), key=lambda entry: -entry[1])[:SHOWN]:
        table.add_row(f"  of these {name}", f"{seconds:.1f}")
    Console().print(table)
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def write_config(folder: Path, images: int = 24) -> Path:
    """Draw a toy folder and write a config that trains 3 steps on it with the defaults of a first
    try."""
    draw_folder(folder / "images", images, style="neon", seed=0)
    config = parse({
        "output": str(folder / "prepared"),
        "model": {"path": str(SD15)},
        "data": {
            "source": str(folder / "images"),
            "dataset": str(folder / "dataset"),
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48], [48, 80]]},
        },
        "train": {"steps": 3, "global_batch": 4},
        "sample": {"max_prompts": 1, "steps": 2},
        "cluster": {"num_cpus": 2},
    })  # fmt: skip
    path = folder / "config.toml"
    path.write_text(to_toml(config))
    return path


def stage(name: str, config: Path, *overrides: str) -> Seen:
    """Run a stage's command to its end; a failure is raised with what it printed."""
    return watch(command_of(name, config, *overrides), lambda _: ())


def command_of(name: str, config: Path, *overrides: str) -> list[str]:
    """Return a stage's command line."""
    return [
        sys.executable,
        "-m",
        f"jobs.{name}",
        str(config),
        *(word for key in overrides for word in ("--set", key)),
    ]


def train(config: Path, output: str) -> Seen:
    """Run the training command and watch it; RuntimeError where it failed."""
    seen = watch(command_of("train", config, f"output={output}"), lambda _: files(output))
    if FIRST_STEP not in seen.marks:
        raise RuntimeError(f"{output} has no step:\n{seen.printed}")
    return seen


def watch(
    command: Sequence[str],
    look: Callable[[str], Iterable[str]],
    environment: Mapping[str, str] | None = None,
    each_process: bool = True,
) -> Seen:
    """Run a command to its end and note when each mark is first seen; `look` finds marks,
    given what is printed so far.

    Not looking at `each_process` below the command disturbs it less; `processor` is then what
    those that ended took.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    marks: dict[str, float] = {}
    cpu: dict[int, tuple[str, float]] = {}
    with tempfile.NamedTemporaryFile() as printed:
        began = time.time()
        process = subprocess.Popen(
            command,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        until_step: dict[int, tuple[str, float]] = {}
        text = ""
        while process.poll() is None:
            now = time.time() - began
            text = Path(printed.name).read_text(errors="replace")
            for mark in [*(_processes(process.pid, cpu) if each_process else ()), *look(text)]:
                marks.setdefault(mark, now)
            if not until_step and FIRST_STEP in marks:
                until_step = dict(cpu)
            time.sleep(POLL)
        marks["exit"] = time.time() - began
        text = Path(printed.name).read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    seconds: dict[str, float] = defaultdict(float)
    for name, spent in (until_step or cpu).values():
        seconds[name] += spent
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Seen(
        marks,
        dict(seconds),
        sum(spent for _, spent in cpu.values()) if each_process else ended,
        text,
    )


def durations(marks: dict[str, float]) -> dict[str, float]:
    """Return each phase's seconds; marks that were missed between two looks count to the next."""
    found, before = {}, 0.0
    for phase, mark in PHASES.items():
        at = max(before, marks.get(mark, before))
        found[phase], before = at - before, at
    return found


def _processes(root: int, cpu: dict[int, tuple[str, float]]) -> list[str]:
    """Return the marks among the processes at and below `root`,
    and note each one's processor time so far."""
    found = []
    try:
        family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    for process in family:
        try:
            times = process.cpu_times()
            line = process.cmdline() or [""]
            name = WORKER if WORKER in line else os.path.basename(line[0]).split(".")[0]
            cpu[process.pid] = (name, times.user + times.system)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue  # it ended while we looked
        found.append(name)
    return found


def files(output: str) -> list[str]:
    """Return the marks that the files of a training run are."""
    found = [
        name
        for name in ("config.toml", "train.json")
        if os.path.exists(os.path.join(output, name))
    ]
    metrics = Path(output, METRICS)
    if metrics.exists():
        with metrics.open("rb") as file:
            if b'"loss"' in file.read(HEAD):
                found.append(FIRST_STEP)
    return found


if __name__ == "__main__":
    main()
