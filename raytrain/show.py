"""What a command shows while its work is done; the library itself prints nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

Advance = Callable[[int], None]
"""Advances a stage by so many images."""
Stages = Callable[[str, int | None], AbstractContextManager[Advance]]
"""(name, total; None where it is not known) -> a stage that lasts as long as its block."""


class Show(Protocol):
    """Shows texts and progress to who started the work."""

    def tell(self, text: str) -> None:
        """Show a text."""

    def warn(self, text: str) -> None:
        """Show a text apart from results."""

    def stages(self) -> AbstractContextManager[Stages]:
        """Show the stages that are begun in the block: what is done, how fast, and how long it
        will take."""

    def training(self, output: str, total_steps: int) -> AbstractContextManager[None]:
        """Show the progress of the run in `output`, and its workers' notices, until the block
        ends."""


class Silent:
    """Shows nothing."""

    def tell(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def stages(self) -> AbstractContextManager[Stages]:
        """Return stages that show nothing."""
        return nullcontext(lambda name, total: nullcontext(lambda count: None))

    def training(self, output: str, total_steps: int) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()


SILENT = Silent()
