"""Stages without Ray: processes of this machine, each with a decoder and a model that may crash
without the command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from raytrain import plugins, storage
from raytrain.config import Config
from raytrain.config.data import EncodeConfig
from raytrain.data.pipeline.executor import Need, named
from raytrain.data.store.schema import MANIFEST
from raytrain.local import MODELS, TASKS, Died, Machine, Process, free

ENCODER = "raytrain.data.pipeline.encode"

_stage: Any = None


def reserve(config: Config, machine: Machine) -> None:
    """Start the encoder's process while images are still listed,
    where there is no dataset yet that may have them all."""
    if not storage.exists(storage.join(config.dataset, MANIFEST)):
        family = plugins.module_name("families", config.model.family)
        machine.reserve(MODELS, ENCODER, family, silent=True)


class OnMachine:
    """Executor of processes of this machine; see `raytrain.data.pipeline.executor`."""

    retries = 0

    def __init__(self, machine: Machine) -> None:
        self.machine: Machine | None = machine
        self._machine = machine

    def call(self, function: Callable[..., Any] | str, **settings: Any) -> Any:
        """Call a function here."""
        return named(function)(**settings)

    def compute(
        self,
        function: str,
        cpus: float,
        gpus: float,
        tell: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> Any:
        """Call the function of a name here; this machine has what it has."""
        return named(function)(**settings, **({"tell": tell} if tell else {}))

    def stream(
        self,
        jobs: Sequence[dict[str, Any]],
        worker: Any,
        settings: dict[str, Any],
        pool: EncodeConfig | None,
        memory: float = 0.0,
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the reports of jobs in order, `worker(**settings)` once in each process.

        Raises `raytrain.local.Died` when a process ends before its job.
        """
        size = min(len(jobs), pool.workers if pool else os.cpu_count() or 1)
        module = (settings["actor"] if pool else settings["function"]).__module__
        role = MODELS if pool else TASKS
        processes = [self._machine.take(role, module, silent=True) for _ in range(size)]
        idle: SimpleQueue[Process] = SimpleQueue()

        def begin(process: Process) -> None:
            process.call(_begin, worker, settings)
            idle.put(process)

        def do(job: dict[str, Any]) -> list[str]:
            process = idle.get()
            try:
                reports: list[str] = process.call(_do, json.dumps(job))
                return reports
            finally:
                idle.put(process)  # a dead one too: nobody shall wait for it

        with ThreadPoolExecutor(size) as threads:
            try:
                list(threads.map(begin, processes))
                for reports in threads.map(do, jobs):
                    yield from map(json.loads, reports)
                for process in processes:
                    process.call(_end)
                    self._machine.give_back(role, process)
                processes = []
            finally:
                for process in processes:
                    process.end()

    def lost(self, error: Exception) -> str:
        """Return how a process ended, empty where none did."""
        return str(error) if isinstance(error, Died) else ""

    def await_room(self, need: Need, minutes: float, tell: Callable[[str], None]) -> None:
        """Accept any: a process needs no room that could be counted."""


def _begin(worker: Any, settings: dict[str, Any]) -> None:
    global _stage
    _stage = worker(**settings)


def _end() -> None:
    """Free the memory of the stage."""
    global _stage
    _stage = None
    free()


def _do(job: str) -> list[str]:
    reports: list[str] = _stage(pa.table({"job": [job]}))["report"].to_pylist()
    return reports
