"""Where the work of a command is done: on the Ray it is connected to, or in processes of this
machine."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from raytrain.config.data import EncodeConfig
from raytrain.local import Machine
from raytrain.startup import in_ray

Job = dict[str, Any]
Report = dict[str, Any]


@dataclass(frozen=True)
class Need:
    """Workers that must run at a time."""

    who: str
    """One of them, in words."""
    cpus: float
    gpus: float
    count: int
    keys: str
    """The keys of the config that say so."""


class Executor(Protocol):
    """Does the work of stages. Jobs and reports are small JSON values."""

    machine: Machine | None
    """Its processes of this machine; None on Ray."""
    retries: int
    """How often a job is tried again at once when its worker dies."""

    def call(self, function: Callable[..., Any] | str, **settings: Any) -> Any:
        """Call a function, in a task where there are tasks, and return its result;
        a UserError of the task is raised here.

        On Ray the task needs no CPU and runs on a worker; where `function` is a name, such as
        `raytrain.train.begin:begin`, this process needs none of what it imports.
        """

    def compute(
        self,
        function: str,
        cpus: float,
        gpus: float,
        tell: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> Any:
        """Call the function of a name, such as `raytrain.sample:sample`, where there are so many
        CPUs and GPUs, and return its result, a small value; `tell` gets its messages as they come.
        Without it the function is given none.

        On Ray this process needs none of what the function imports. A UserError of it is raised
        here.
        """

    def stream(
        self,
        jobs: Sequence[Job],
        worker: Any,
        settings: dict[str, Any],
        pool: EncodeConfig | None,
        memory: float = 0.0,
    ) -> Generator[Report, None, None]:
        """Yield the reports of jobs as they come: `worker(**settings)` maps a block of jobs to one
        of reports, in tasks, or on a pool of workers, each of which holds so many MiB, where that
        is known.

        Closed, it ends its workers. Raises the error by which a worker was lost.
        """

    def lost(self, error: Exception) -> str:
        """Return how a worker was lost, empty where it was not."""

    def await_room(
        self,
        need: Need,
        minutes: float,
        tell: Callable[[str], None],
    ) -> None:
        """Wait until there is room, on a cluster that may grow for so long; raise UserError where
        there is none then, at once where nothing can grow."""


def named(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return the function of a name: its module, a colon, its own name; a function itself."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


@contextmanager
def chosen(executor: Executor | None) -> Iterator[Executor]:
    """Yield the executor a command made; without one the Ray that this process is connected to;
    without that processes of this machine, for the length of the block."""
    if executor is not None:
        yield executor
    elif in_ray():
        yield on_ray()
    else:
        from raytrain.data.pipeline.on_machine import OnMachine

        with Machine() as machine:
            yield OnMachine(machine)


def on_ray() -> Executor:
    """Return the executor of the Ray that this process is connected to."""
    from raytrain.data.pipeline.on_ray import OnRay

    return OnRay()
