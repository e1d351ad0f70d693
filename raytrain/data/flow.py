"""Run one stage on Ray, quietly: a single task, many tasks, or a pool of actors. Jobs and reports are small JSON values.

What a stage reads and writes lies on storage; a job only names it (a file and a row group of it), and so memory on the
driver does not grow with the dataset. Ray Data starts, feeds, restarts and scales the workers.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from raytrain.dataconfig import EncodeConfig
from raytrain.errors import UserError

RETRIES = 5
"""How often a job is given to another worker when one dies of it."""

_LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)
NUMBER = "job number"

Job = dict[str, Any]
Report = dict[str, Any]


class Worker(Protocol):
    """An actor of a pool."""

    def __call__(self, job: Job) -> Report:
        """Do one job."""


def call(function: Callable[..., Any], **settings: Any) -> Any:
    """Call a function in a Ray task and return its result; a UserError of the task is raised here."""
    try:
        return ray.get(ray.remote(num_cpus=0)(function).remote(**settings))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def map_tasks(jobs: Sequence[Job], function: Callable[..., Report], **settings: Any) -> Iterator[Report]:
    """Call `function(job, **settings)` for every job in Ray tasks; yield the reports as they come."""
    yield from _run(
        jobs,
        _Each,
        {"function": function, "settings": settings},
        {"num_cpus": 1, "max_retries": RETRIES},
    )


def map_actors(
    jobs: Sequence[Job], actor: Callable[..., Worker], settings: Mapping[str, Any], encode: EncodeConfig
) -> Iterator[Report]:
    """Call `actor(**settings)(job)` for every job on a pool of actors between the bounds of `[data.encode]`."""
    most = min(max(encode.workers, encode.max_workers or 0), len(jobs))
    pool = ActorPoolStrategy(min_size=min(encode.workers, most), max_size=most) if jobs else None
    options = {
        "compute": pool,
        "max_task_retries": RETRIES,
        "num_cpus": encode.cpus_per_worker,
        "num_gpus": encode.gpus_per_worker,
    }
    yield from _run(jobs, _Pooled, {"actor": actor, "settings": dict(settings)}, options)


class _Each:
    """Runs a function on each job."""

    def __init__(self, function: Callable[..., Report], settings: dict[str, Any]) -> None:
        self.function, self.settings = function, settings

    def __call__(self, block: pa.Table) -> pa.Table:
        return _reports(block, lambda job: self.function(job, **self.settings))


class _Pooled:
    """Holds an actor and runs it on each job."""

    def __init__(self, actor: Callable[..., Worker], settings: dict[str, Any]) -> None:
        self.error, self.worker = "", None
        try:
            self.worker = actor(**settings)
        except UserError as error:  # reported by the first job: a constructor that raises would be restarted for ever
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
            reports.append({NUMBER: number, **function(job)})
        except UserError as error:
            reports.append({"error": str(error)})
    return pa.table({"report": [json.dumps(report) for report in reports]})


def _run(jobs: Sequence[Job], worker: Any, settings: dict[str, Any], options: dict[str, Any]) -> Iterator[Report]:
    """Do all jobs. A lost worker is replaced by Ray; where Ray itself lost a part, the jobs without a report begin anew."""
    left = dict(enumerate(jobs))
    idle = 0
    while left:
        before = len(left)
        try:
            for report in _stream([job | {NUMBER: n} for n, job in left.items()], worker, settings, options):
                if "error" in report:
                    raise UserError(report["error"])
                del left[report.pop(NUMBER)]
                yield report
        except _LOST as error:
            idle = 0 if len(left) < before else idle + 1
            if idle < 2:
                continue
            raise UserError(
                f"Workers must not die, but {type(error).__name__} came again and again, and none of the last {len(left)} jobs "
                f"ended; each was tried {2 * (1 + RETRIES)} times. Most likely the workers ran out of memory, or a picture "
                "crashes a decoder. What is finished is kept. Give workers more memory or a smaller data.encode.batch, look "
                "into the logs of Ray, and run the same command again."
            ) from error


def _stream(jobs: Sequence[Job], worker: Any, settings: dict[str, Any], options: dict[str, Any]) -> Iterator[Report]:
    for name in ("progress", "execution.streaming_executor", "execution.streaming_executor_state"):
        logging.getLogger(f"ray.data._internal.{name}").setLevel(logging.CRITICAL)  # we say the same
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    if "compute" in options:
        stage: Any = worker
        options = {**options, "fn_constructor_kwargs": settings}
    else:
        stage = worker(**settings).__call__
    with DataContext.current(context):
        data = ray.data.from_arrow([pa.table({"job": [json.dumps(job)]}) for job in jobs])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a later Ray names the parameter for retries otherwise
            data = data.map_batches(stage, batch_size=None, batch_format="pyarrow", **options)
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from (json.loads(report) for report in batch["report"].to_pylist())


def check_room(encode: EncodeConfig) -> None:
    """Raise UserError when no node has room for one encoding worker; call it where no autoscaler can add a node."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    needs = {"CPU": encode.cpus_per_worker, "GPU": encode.gpus_per_worker}
    if any(all(node.get(kind, 0) >= amount for kind, amount in needs.items()) for node in nodes):
        return
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in needs}
    raise UserError(
        f"An encoding worker asks for {encode.cpus_per_worker:g} CPUs and {encode.gpus_per_worker:g} GPUs "
        f"(data.encode.cpus_per_worker, gpus_per_worker), but the largest node has {most['CPU']:g} CPUs and "
        f"{most['GPU']:g} GPUs: it would wait for ever. Ask for less, or join a larger cluster."
    )
