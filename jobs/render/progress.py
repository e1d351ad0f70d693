"""Texts and progress on a terminal: bars, or, in a log file, a line every few seconds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from raytrain import storage
from raytrain.log import METRICS, read_metrics
from raytrain.show import Advance, Stages
from raytrain.train.record.notices import Notices

STAGE_SECONDS, TRAIN_SECONDS = 15.0, 10.0
"""Between lines, of preparation and of training."""
SHOWN = (
    "loss",
    "held_out_loss",
    "clip_text",
    "learning_rate",
    "images_per_second",
    "data_stall_ratio",
)


class Terminal:
    """Shows on standard output; see `raytrain.show`."""

    def tell(self, text: str) -> None:
        """Print a text."""
        print(text, flush=True)

    def warn(self, text: str) -> None:
        """Print a text to standard error."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def stages(self) -> Iterator[Stages]:
        """Show stages of images: what is done, how fast, and how long it will take."""
        console = Console()
        if not console.is_terminal:
            yield lambda name, total: _stage_lines(console, name, total)
            return
        columns = (
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, TimeRemainingColumn(), console=console) as progress:

            @contextlib.contextmanager
            def stage(name: str, total: int | None) -> Iterator[Advance]:
                if total == 0:
                    yield lambda count: None
                    return
                task = progress.add_task(name, total=total)
                yield lambda count: progress.advance(task, count)
                done = progress.tasks[task].completed
                progress.update(task, total=done, completed=done)

            yield stage

    @contextlib.contextmanager
    def training(self, output: str, total_steps: int) -> Iterator[None]:
        """Follow a run's `metrics.jsonl` and its workers' notices."""
        stop = threading.Event()
        arguments = (output, total_steps, Notices(output), stop)
        thread = threading.Thread(target=_follow, args=arguments, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def _stage_lines(console: Console, name: str, total: int | None) -> Iterator[Advance]:
    began = printed = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if now - printed > STAGE_SECONDS and total and done:
            printed, rate = now, done / (now - began)
            console.print(
                f"{name}: {done}/{total}, {rate:.1f} a second, {(total - done) / rate:.0f} s left",
                highlight=False,
            )

    yield advance
    seconds = time.monotonic() - began
    if total is None or total > 0:
        speed = f", {done / seconds:.1f} a second" if done and seconds > 0 else ""
        console.print(
            f"{name}: {f'{done} ' if total else ''}done in {seconds:.1f} s{speed}", highlight=False
        )


class _Rate(ProgressColumn):
    """Images a second, over the whole stage."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        return Text(f"{task.completed / elapsed:6.1f}/s" if task.completed and elapsed else "")


def _follow(output: str, total: int, notices: Notices, stop: threading.Event) -> None:
    show = _bar(total) if sys.stderr.isatty() else _step_lines(total)
    first: tuple[float, int] | None = None
    uri, read, rows = storage.join(output, METRICS), 0.0, []
    with show as (update, tell):
        done = False
        while not done:
            done = stop.wait(1.0)
            for text in notices.new():
                tell(text)
            written = storage.modified(uri)
            if done or written != read:  # an object store is asked for it only when it is new
                read, rows = written, read_metrics(output)
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
def _step_lines(total: int) -> Iterator[Any]:
    printed = [0.0, -1]

    def update(step: int, rate: float, text: str, last: bool) -> None:
        now = time.monotonic()
        if step == printed[1] or (now - printed[0] < TRAIN_SECONDS and not last):
            return
        left = f"  {(total - step) / rate:.0f} s left" if rate and step < total else ""
        print(f"step {step}/{total}  {text}  {rate:.2f} steps/s{left}", flush=True)
        printed[:] = [now, step]

    yield update, lambda text: print(text, flush=True)
