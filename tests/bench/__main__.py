"""Measure what the platform costs over the bare work: `make bench`,
or `python -m tests.bench loader dataset_read`.

Each figure is a ratio of two things measured in turn in one run (ours, reference, ours, reference,
...): the median of the pairs' ratios. Nothing passes or fails on time. Prints a table and writes
`bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from tests.bench import hooks, loader, prepare, train_step


class Bench(NamedTuple):
    """A benchmark: what makes its two sides, what they measure, the ratio aimed at,
    and how often both are measured."""

    setup: Callable[[Path, bool], tuple[Callable[[], float], Callable[[], float]]]
    unit: str
    aim: float
    repeats: int = 5


BENCHES = {
    "train_step": Bench(train_step.setup, "steps/s", 0.98),
    "metrics": Bench(train_step.setup_metrics, "steps/s", 0.98, repeats=7),
    "async_save": Bench(hooks.setup_save, "steps/s", 0.98, repeats=3),
    "async_save_call": Bench(hooks.setup_save_call, "steps/s", 0.98, repeats=3),
    "hooks_async": Bench(hooks.setup_async, "steps/s", 0.99, repeats=3),
    "hooks_async_call": Bench(hooks.setup_async_call, "steps/s", 0.99, repeats=3),
    "loader": Bench(loader.setup, "MB/s", 0.9),
    "loader_headroom": Bench(train_step.setup_headroom, "steps/s", 1.0),
    "dataset_read": Bench(loader.setup_read, "MB/s", 0.9),
    "prepare": Bench(prepare.setup, "images/s", 0.9, repeats=3),
    "prepare_two_actors": Bench(prepare.setup_two, "images/s", 1.7, repeats=3),
}


def measure(name: str, folder: Path, repeats: int | None, quick: bool) -> dict[str, object]:
    """Return one figure: medians of ours and the reference, and the median of the pairs'
    ratios."""
    bench = BENCHES[name]
    ours, reference = bench.setup(folder, quick)
    ours(), reference()  # warm caches and kernels on both sides
    pairs = [(ours(), reference()) for _ in range(repeats or bench.repeats)]
    return {
        "name": name,
        "ours": statistics.median(pair[0] for pair in pairs),
        "reference": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "unit": bench.unit,
    }


def machine() -> str:
    """Describe this machine in a line."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "?",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, torch "
        f"{torch.__version__}"
    )


def main() -> None:
    """Run the benchmarks asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"which of {', '.join(BENCHES)}; default: all"
    )
    parser.add_argument("--repeats", type=int)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes: a test of the benchmark, not a measurement",
    )
    parser.add_argument("--output", default="bench.json")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}")
    names = options.names or list(BENCHES)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="raytrain-bench-") as folder:
        figures = [
            measure(name, Path(folder) / name, options.repeats, options.quick) for name in names
        ]
    table = Table("name", "ours", "reference", "ratio", "unit", "aim", title=machine())
    for figure in figures:
        values = [f"{figure[key]:.2f}" for key in ("ours", "reference", "ratio")]
        table.add_row(
            str(figure["name"]),
            *values,
            str(figure["unit"]),
            f">= {BENCHES[str(figure['name'])].aim}",
        )
    Console().print(table)
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
