"""Rehearsals in this process, and the mistakes that are planted for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs import rehearse, run
from raytrain import local
from raytrain.config import Config
from raytrain.data.pipeline.executor import named
from raytrain.rehearsal import run as rehearsal
from raytrain.train import launch, local_worker
from tests.conftest import Here


class Inside(Here):
    """Executor that works in this process and says it has a machine, whose processes are never
    started."""

    def __init__(self) -> None:
        self.machine = local.Machine()


class Trainer:
    """Trains in this process."""

    def __init__(self, runs: Sequence[Config], *_: Any) -> None:
        self.runs = runs

    def fit(self) -> None:
        launch.work(*self.runs, rank=0, world_size=1, report=None)


def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands `rehearse` and `run` work in this process."""

    @contextmanager
    def workers(*_: Any, **__: Any) -> Iterator[Inside]:
        yield Inside()

    def call(
        config: Config, executor: Any, function: str, /, *, leave: str = "", **given: Any
    ) -> Any:
        return named(function)(**given)

    for job in (rehearse, run):
        monkeypatch.setattr(job, "workers", workers)
    monkeypatch.setattr(launch, "LocalTrainer", Trainer)
    for module in (rehearsal, local_worker):
        monkeypatch.setattr(module, "call", call)


def everything(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
