"""The console's progress: one bar (or, without a terminal, a line from time to time)
that follows a run's `metrics.jsonl`."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from raytrain.log import read_metrics
from raytrain.train.record.notices import Notices

SHOWN = ("loss", "held_out_loss", "clip_text", "learning_rate")
LINE_SECONDS = 10.0


@contextlib.contextmanager
def follow(output: str, total_steps: int) -> Iterator[None]:
    """Show the progress of the run in `output`, and its workers' notices, until the
    block ends."""
    stop = threading.Event()
    arguments = (output, total_steps, Notices(output), stop)
    thread = threading.Thread(target=_follow, args=arguments, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(output: str, total: int, notices: Notices, stop: threading.Event) -> None:
    show = _bar(total) if sys.stderr.isatty() else _lines(total)
    first: tuple[float, int] | None = None
    with show as (update, tell):
        done = False
        while not done:
            done = stop.wait(1.0)
            for text in notices.new():
                tell(text)
            rows = read_metrics(output)
            if not rows:
                continue
            step = max(row["step"] for row in rows)  # scores of earlier steps may come late
            first = first or (time.monotonic(), step)
            rate = (step - first[1]) / max(1e-9, time.monotonic() - first[0])
            latest: dict[str, float] = {}
            for row in rows:
                latest |= {name: row[name] for name in SHOWN if name in row}
            update(
                step,
                rate,
                "  ".join(f"{name} {value:.4g}" for name, value in latest.items()),
                done,
            )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=total, text="")
        yield (
            lambda step, rate, text, last: bar.update(task, completed=step, text=text),
            lambda text: bar.console.print(text, markup=False, highlight=False),
        )


@contextlib.contextmanager
def _lines(total: int) -> Iterator[Any]:
    printed = [0.0, -1]

    def update(step: int, rate: float, text: str, last: bool) -> None:
        now = time.monotonic()
        if step == printed[1] or (now - printed[0] < LINE_SECONDS and not last):
            return
        left = f"  {(total - step) / rate:.0f} s left" if rate and step < total else ""
        print(f"step {step}/{total}  {text}  {rate:.2f} steps/s{left}", flush=True)
        printed[:] = [now, step]

    yield update, lambda text: print(text, flush=True)
