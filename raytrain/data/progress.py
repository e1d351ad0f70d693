"""Progress bars of the stages of one preparation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Bars = Callable[[str, int], Callable[[int], None]]
"""(name, total) -> a function that advances that bar by so many pictures."""


@contextlib.contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Show bars while the block runs; each is added when its total is known."""
    columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:

        def add(name: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(name, total=total)
            return lambda count: progress.advance(task, count)

        yield add


def silent(name: str, total: int) -> Callable[[int], None]:
    """Show nothing."""
    return lambda count: None
