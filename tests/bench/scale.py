"""How preparation grows with the number of images: `make scale`,
or `python -m tests.bench.scale --rows 10000 100000`.

For each number of rows, parquet files of that many tiny, distinct PNGs with captions are written,
and the real `prepare` runs on a real local Ray of two CPUs, twice: once from nothing, once with
nothing to do. The encoders are those of `no_model`, so what is measured is the platform. Memory is
each process's peak resident size (VmHWM); for all processes together it is the largest sum of
their proportional shares, sampled.

`plan` is all that decides what to encode once the images have been scanned: filter, plan the
rows, and compare with what is stored. Prints the curve and writes `scale.json`; nothing passes or
fails on time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

ROWS = (10_000, 100_000, 1_000_000)
SHAPES = ((8, 8), (16, 8), (8, 16), (12, 8), (8, 12), (16, 12), (12, 16))
"""Width and height of the images, in turn."""
FILE_ROWS, GROUP_ROWS = 100_000, 1_000
STAGES = {
    "list": ("write_items",),
    "scan": ("write_unscanned", "scan"),
    "plan": ("filter_images", "plan", "write_stored", "write_known_faults", "write_jobs"),
    "encode": ("encoders", "encode"),
    "publish": ("publish",),
}
"""Column of the curve -> what belongs to it, by the names of the functions and bars that
preparation goes through."""


def main() -> None:
    """Measure each number of rows in folders of its own, and print the curve."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--output", default="scale.json")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        print(json.dumps(drive(Path(options.drive))))
        return
    figures = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(prefix="raytrain-scale-") as folder:
            write_source(Path(folder) / "source", rows)
            from tests.bench import no_model

            no_model.tiny(f"{folder}/model")
            figures.append({"rows": rows, "first": measure(folder), "again": measure(folder)})
        Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")
    Console().print(curve(figures))


def write_source(folder: Path, rows: int) -> None:
    """Write `rows` distinct PNGs with captions into parquet files."""
    folder.mkdir()
    for start in range(0, rows, FILE_ROWS):
        numbers = range(start, min(rows, start + FILE_ROWS))
        table = pa.table(
            {"image": [png(number) for number in numbers], "text": [caption(n) for n in numbers]}
        )
        pq.write_table(table, folder / f"{start:09d}.parquet", row_group_size=GROUP_ROWS)


def png(number: int) -> bytes:
    """Return the bytes of an image of one color, its number, in one of the shapes."""
    width, height = SHAPES[number % len(SHAPES)]
    pixels = (b"\0" + number.to_bytes(3, "big") * width) * height
    header = pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(pixels, 1)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        pack(">I", len(content)) + kind + content + pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def caption(number: int) -> str:
    """Return a caption of a few tags; nine in ten are used by one image alone."""
    return f"a plain image, color {number if number % 10 else 0}, seen from the front, soft light"


def measure(folder: str) -> dict[str, Any]:
    """Run `prepare` once in a process of its own; return its seconds by stage and the peaks of
    memory in MiB."""
    command = [sys.executable, "-m", "tests.bench.scale", "--drive", folder]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        peaks: dict[int, tuple[str, float]] = {}
        total = 0.0
        while driver.poll() is None:
            sizes = list(_processes(driver.pid))
            peaks |= {pid: (name, peak) for pid, name, peak, _ in sizes}
            total = max(total, sum(own for *_, own in sizes))
            time.sleep(0.5)
        assert driver.stdout is not None
        output = driver.stdout.read()
    if driver.returncode:
        raise RuntimeError(f"prepare ended with exit code {driver.returncode}")
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    workers = [peak for name, peak in peaks.values() if name.startswith("ray::")]
    return figures | {
        "worker_peak": max(workers, default=0.0),
        "total_peak": total,
        "whole": time.perf_counter() - began,
    }


def drive(folder: Path) -> dict[str, Any]:
    """Prepare in this process and return what it took."""
    from cluster.connect import connect
    from raytrain.config.file import parse
    from raytrain.data import prepare
    from raytrain.data.pipeline.on_ray import OnRay

    config = parse({
        "output": str(folder / "run"),
        "model": {"family": "tests.bench.no_model", "path": str(folder / "model")},
        "data": {
            "source": str(folder / "source"),
            "buckets": {"resolution": 16, "step": 8},
            "encode": {"workers": 2, "batch": 64},
        },
    })  # fmt: skip
    seconds: dict[str, float] = defaultdict(float)
    call, each = OnRay.call, prepare.Preparation._each

    def timed_call(self: OnRay, function: Any, **settings: Any) -> Any:
        began = time.perf_counter()
        result = call(self, function, **settings)
        seconds[function.__name__] += time.perf_counter() - began
        return result

    def timed_each(self: Any, name: str, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = each(self, name, *arguments)
        seconds[name] += time.perf_counter() - began
        return result

    OnRay.call = timed_call  # type: ignore[method-assign]
    prepare.Preparation._each = timed_each  # type: ignore[method-assign,assignment]
    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        report = prepare.prepare(config)
    stages = {name: sum(seconds[part] for part in parts) for name, parts in STAGES.items()}
    assert set(seconds) <= {part for parts in STAGES.values() for part in parts}, seconds
    peak = _memory(os.getpid(), "VmHWM")
    return {"kept": report.kept, "made": report.made, "seconds": report.seconds, "stages": stages,
            "parts": dict(seconds), "driver_peak": peak}  # fmt: skip


def curve(figures: list[dict[str, Any]]) -> Table:
    """Return the figures as a table: seconds by stage, images per second of the first run, MiB."""
    columns = (
        "rows",
        *STAGES,
        "all",
        "rows/s",
        "nothing to do",
        "driver MiB",
        "worker MiB",
        "all MiB",
    )
    table = Table(*columns, title="seconds by stage, peak memory")
    for figure in figures:
        first, again = figure["first"], figure["again"]
        seconds = [f"{first['stages'][name]:.1f}" for name in STAGES] + [f"{first['seconds']:.1f}"]
        rate = f"{figure['rows'] / first['seconds']:,.0f}"
        memory = [f"{first[name]:,.0f}" for name in ("driver_peak", "worker_peak", "total_peak")]
        table.add_row(f"{figure['rows']:,}", *seconds, rate, f"{again['seconds']:.1f}", *memory)
    return table


def _processes(root: int) -> Iterator[tuple[int, str, float, float]]:
    """Yield id, name, peak and present share of memory in MiB of a process and all below it."""
    parents: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        try:
            parents[
                int(Path(f"/proc/{entry}/stat").read_text().rsplit(") ", 1)[1].split()[1])
            ].append(int(entry))
        except (ValueError, OSError):
            continue
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += parents[pid]
        try:
            name = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
            yield pid, name, _memory(pid, "VmHWM"), _memory(pid, "Pss", "smaps_rollup")
        except (OSError, StopIteration):
            continue


def _memory(pid: int, field: str, file: str = "status") -> float:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
