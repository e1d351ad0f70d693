"""Run one stage: many tasks, or a pool of actors.

Jobs and reports are small JSON values. What a stage reads and writes is on storage; a job only
names it (a file and a row group of it), and so memory on the driver does not grow with the
dataset. On Ray, Ray Data starts, feeds, restarts and scales the workers (`on_ray`); else processes
of this machine do the same work (`on_machine`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Protocol

import pyarrow as pa

from raytrain.config import Config
from raytrain.config.data import EncodeConfig
from raytrain.data.pipeline.executor import Executor, Job, Report
from raytrain.errors import UserError
from raytrain.peak import peak
from raytrain.startup import before_imports

ROUNDS = 2
"""How often jobs whose workers were lost are restarted while none of them ends."""
NUMBER = "job number"


class Worker(Protocol):
    """An actor of a pool."""

    def __call__(self, job: Job) -> Report:
        """Do one job."""


def needs_ray(config: Config) -> bool:
    """Tell whether preparing needs Ray: one encoder on this machine is a process."""
    encode = config.data.encode
    return max(encode.workers, encode.max_workers or 0) > 1


def map_tasks(
    executor: Executor, jobs: Sequence[Job], function: Callable[..., Report], **settings: Any
) -> Iterator[Report]:
    """Call `function(job, **settings)` for every job in tasks; yield the reports as they come."""
    yield from _run(executor, jobs, _Each, {"function": function, "settings": settings}, None)


def map_actors(
    executor: Executor,
    jobs: Sequence[Job],
    actor: Callable[..., Worker],
    settings: Mapping[str, Any],
    encode: EncodeConfig,
) -> Iterator[Report]:
    """Call `actor(**settings)(job)` for every job on a pool of actors between the bounds of
    `[data.encode]`."""
    yield from _run(executor, jobs, _Pooled, {"actor": actor, "settings": dict(settings)}, encode)


class _Each:
    """Runs a function on each job."""

    def __init__(self, function: Callable[..., Report], settings: dict[str, Any]) -> None:
        self.function, self.settings = function, settings

    def __call__(self, block: pa.Table) -> pa.Table:
        return _reports(block, lambda job: self.function(job, **self.settings))


class _Pooled:
    """Holds an actor and runs it on each job."""

    def __init__(self, actor: Callable[..., Worker], settings: dict[str, Any]) -> None:
        before_imports()
        self.error, self.worker = "", None
        try:
            self.worker = actor(**settings)
        except UserError as error:
            # reported by the first job: a constructor that raises would be restarted forever
            self.error = str(error)

    def __call__(self, block: pa.Table) -> pa.Table:
        if self.worker is None:
            return pa.table({"report": [json.dumps({"error": self.error})]})
        return _reports(block, self.worker)


def _reports(block: pa.Table, function: Callable[[Job], Report]) -> pa.Table:
    reports = []
    for job in map(json.loads, block["job"].to_pylist()):
        number = job.pop(NUMBER)
        try:
            reports.append({NUMBER: number, **function(job), "peak": peak()})
        except UserError as error:
            reports.append({"error": str(error)})
    return pa.table({"report": [json.dumps(report) for report in reports]})


def _run(
    executor: Executor,
    jobs: Sequence[Job],
    worker: Any,
    settings: dict[str, Any],
    pool: EncodeConfig | None,
) -> Iterator[Report]:
    """Do all jobs.

    A lost worker is replaced by Ray; where Ray itself lost a part, the jobs without a report are
    restarted, and each worker is then given the memory that the largest was seen to hold.
    """
    left = dict(enumerate(jobs))
    idle, held, budget = 0, 0.0, 0.0
    while left:
        before = len(left)
        try:
            with closing(
                executor.stream(
                    [job | {NUMBER: n} for n, job in left.items()], worker, settings, pool, budget
                )
            ) as reports:
                for report in reports:
                    if "error" in report:
                        raise UserError(report["error"])
                    held = max(held, report["peak"][0])
                    del left[report.pop(NUMBER)]
                    yield report
        except Exception as error:
            lost = executor.lost(error)
            if not lost:
                raise
            idle, budget = 0 if len(left) < before else idle + 1, held
            if idle < ROUNDS:
                continue
            tries = ROUNDS * (1 + executor.retries)
            raise UserError(
                f"Workers must not die, but {lost} occurred repeatedly, and none of the last "
                f"{len(left)} jobs ended; each was tried {tries} times. Most likely the workers "
                "ran out of memory, or an image crashes a decoder. What is finished is kept. Give "
                "workers more memory or a smaller data.encode.batch, look into the workers' logs "
                "(log.worker_output = true), and run the same command again."
            ) from error
