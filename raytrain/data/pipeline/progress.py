"""Progress of the stages of one preparation: bars on a terminal,
a line every few seconds in a log file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

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

LINE_SECONDS = 15.0

Advance = Callable[[int], None]
"""Advances a stage by so many images."""
Bars = Callable[[str, int | None], AbstractContextManager[Advance]]
"""(name, total; None where it is not known) -> a stage that lasts as long as its block."""


@contextlib.contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show the stages that are begun while the block runs: what is done, how fast,
    and how long it will take."""
    if not console.is_terminal:
        yield lambda name, total: _lines(console, name, total)
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
def _lines(console: Console, name: str, total: int | None) -> Iterator[Advance]:
    began = printed = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, printed
        done += count
        now = time.monotonic()
        if now - printed > LINE_SECONDS and total and done:
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
