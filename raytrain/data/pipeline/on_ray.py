"""Stages on Ray, quietly: tasks and actors that Ray Data starts, feeds, restarts and scales."""

from __future__ import annotations

import json
import logging
import os
import random
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrain import storage
from raytrain.config.data import EncodeConfig
from raytrain.data.pipeline.executor import Need, named
from raytrain.errors import UserError
from raytrain.local import Machine

_SAID, _DONE = "said", "done"
LOST = (NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError)
"""What Ray raises when it gives a worker up."""


SPARE = 1.2
"""How much more memory an actor is given than another was seen to hold."""
PATIENCE = 10.0
"""Seconds before it is told that a command waits for room."""


class OnRay:
    """Executor of the Ray that this process is connected to; see
    `raytrain.data.pipeline.executor`."""

    machine: Machine | None = None
    retries = 5

    def call(self, function: Callable[..., Any] | str, **settings: Any) -> Any:
        """Call a function in a task on a worker; a UserError of the task is raised here."""
        name = function if isinstance(function, str) else function.__qualname__
        task = ray.remote(_called).options(name=name, **_on_a_worker())
        return got(task.remote(function, settings))

    def compute(
        self,
        function: str,
        cpus: float,
        gpus: float,
        tell: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> Any:
        """Call the function of a name in a task that holds so many CPUs and GPUs."""
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=self.retries)(_computed)
        result = None
        for item in task.options(num_returns="streaming").remote(
            function, settings, tell is not None
        ):
            kind, value = got(item)
            if kind == _SAID and tell:
                tell(value)
            else:
                result = value
        return result

    def stream(
        self,
        jobs: Sequence[dict[str, Any]],
        worker: Any,
        settings: dict[str, Any],
        pool: EncodeConfig | None,
        memory: float = 0.0,
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the reports of jobs: `worker(**settings)` maps a block of jobs to one of reports,
        in tasks or on a pool of actors; where it is known how much memory one holds, a node gets
        no more of them than it has room for."""
        for name in (
            "progress",
            "execution.streaming_executor",
            "execution.streaming_executor_state",
        ):
            logging.getLogger(f"ray.data._internal.{name}").setLevel(
                logging.CRITICAL
            )  # we say the same
        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        if pool is None:
            stage: Any = worker(**settings).__call__
            options: dict[str, Any] = {"num_cpus": 1, "max_retries": self.retries}
        else:
            stage = worker
            options = _pool(pool, len(jobs), memory) | {
                "fn_constructor_kwargs": settings,
                "max_task_retries": self.retries,
            }
        with DataContext.current(context):
            data = ray.data.from_arrow([pa.table({"job": [json.dumps(job)]}) for job in jobs])
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # that a later Ray names the parameter for retries otherwise
                # A block is a job, and so a batch; with GPUs Ray wants the size said.
                data = data.map_batches(stage, batch_size=1, batch_format="pyarrow", **options)
            for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from (json.loads(report) for report in batch["report"].to_pylist())

    def lost(self, error: Exception) -> str:
        """Return the kind of loss, empty where it is another error."""
        return type(error).__name__ if isinstance(error, LOST) else ""

    def await_room(self, need: Need, minutes: float, tell: Callable[[str], None]) -> None:
        """Wait for room on a Ray that is joined; one that this process started never grows."""
        bundle = {kind: each for kind, each in (("CPU", need.cpus), ("GPU", need.gpus)) if each}
        if not bundle:
            return
        node = ray._private.worker.global_worker.node  # None in a worker
        if node is not None and node.is_head():
            if _places(bundle) < need.count:
                raise UserError(
                    f"{_asked(need, bundle)}. It would wait forever. Ask for less, or join a "
                    "larger cluster."
                )
            return
        group = ray.util.placement_group([bundle] * need.count)
        try:
            if group.wait(min(PATIENCE, 60 * minutes)):
                return
            tell(f"Waiting up to {minutes:g} minutes for room: {_asked(need, bundle)}.")
            if not group.wait(60 * minutes):
                raise UserError(
                    f"{_asked(need, bundle)}. No more came within {minutes:g} minutes "
                    "(cluster.wait_minutes). Nothing was done, and nothing is held. Ask for less, "
                    "let the cluster grow further, or wait longer."
                )
        finally:
            ray.util.remove_placement_group(group)


def got(result: Any) -> Any:
    """Wait for a result of Ray and return it; a UserError of the task is raised as it is."""
    try:
        return ray.get(result)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _places(bundle: Mapping[str, float]) -> int:
    """Return how many workers the nodes have places for, held or free."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(node.get(kind, 0) / each) for kind, each in bundle.items()) for node in nodes
    )


def _asked(need: Need, bundle: Mapping[str, float]) -> str:
    """Say what is asked for, and what there is."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
    free = ray.available_resources()
    return (
        f"{need.who} asks for {need.cpus:g} CPUs and {need.gpus:g} GPUs ({need.keys}), and "
        f"{need.count} of them must run at a time, but there is room for {_places(bundle)}: "
        f"{len(nodes)} nodes, the largest with {most['CPU']:g} CPUs and {most['GPU']:g} GPUs; "
        f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free"
    )


def check_shared(keys: Mapping[str, str]) -> None:
    """Raise UserError where a local folder is not the same on all nodes of the cluster; `keys`
    maps a setting to the folder that it names. A file is written on one node and looked for on
    the others."""
    local = {key: folder for key, folder in keys.items() if storage.is_local(folder)}
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in _workers()}
    here = ray.get_runtime_context().get_node_id()
    if not local or len({here, *nodes}) == 1:
        return
    first, *others = nodes
    for key, folder in local.items():
        mark = storage.join(os.path.abspath(folder), f".shared-{uuid.uuid4().hex[:8]}")
        ray.get(_on(first, storage.write_bytes).remote(mark, b""))
        try:
            seen = ray.get([_on(node, storage.exists).remote(mark) for node in others])
            blind = [nodes[node] for node, sees in zip(others, seen, strict=True) if not sees]
            if not storage.exists(mark):
                blind.insert(0, "the machine of this command")
        finally:
            ray.get(_on(first, storage.remove).remote(mark))
        if blind:
            raise UserError(
                f"On a cluster of several nodes {key} must be a folder that all of them share or "
                f"an object store, but what {nodes[first]} writes to {folder!r} is not seen by "
                f"{', '.join(blind)}: one node would not find what another made. Nothing was "
                f"done. Set {key} to a shared folder, or to s3://, gs:// or abfs://."
            )


def _on(node: str, function: Callable[..., Any]) -> Any:
    """Return a function as a task on a node."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=where)


def _workers() -> list[dict[str, Any]]:
    """Return the nodes that have CPUs."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _on_a_worker() -> dict[str, Any]:
    """Return the options of a task that needs no CPU, by which it nevertheless runs on a node that
    has some: a head without CPUs starts, follows and reports."""
    nodes = [node["NodeID"] for node in _workers()]
    if not nodes:
        return {"num_cpus": 1}  # an empty cluster: this asks its autoscaler for a node
    here = ray.get_runtime_context().get_node_id()
    node = here if here in nodes else random.choice(nodes)
    return {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True),
    }


def _called(function: Callable[..., Any] | str, settings: dict[str, Any]) -> Any:
    return named(function)(**settings)


def _computed(function: str, settings: dict[str, Any], tells: bool) -> Iterator[tuple[str, Any]]:
    """Yield the messages of a function as they come, then its result."""
    said: SimpleQueue[str | None] = SimpleQueue()
    with ThreadPoolExecutor(1) as thread:
        extra = {"tell": said.put} if tells else {}
        working = thread.submit(named(function), **settings, **extra)
        working.add_done_callback(lambda _: said.put(None))
        while (text := said.get()) is not None:
            yield _SAID, text
    yield _DONE, working.result()


def _pool(encode: EncodeConfig, jobs: int, memory: float) -> dict[str, Any]:
    most = min(max(encode.workers, encode.max_workers or 0), jobs)
    largest = max((node["Resources"].get("memory", 0.0) for node in _workers()), default=0.0)
    budget = min(SPARE * memory * 2**20, largest)
    return ({"memory": budget} if budget else {}) | {
        "compute": ActorPoolStrategy(min_size=min(encode.workers, most), max_size=most),
        "num_cpus": encode.cpus_per_worker,
        "num_gpus": encode.gpus_per_worker,
    }
