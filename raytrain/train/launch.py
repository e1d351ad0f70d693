"""Launch a training run through Ray Train: N workers, restarted from the last checkpoint when one
dies."""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from raytrain import storage
from raytrain.config import Config
from raytrain.config.data import GROWING
from raytrain.config.file import parse
from raytrain.data.pipeline.executor import Executor, Need, chosen
from raytrain.data.store.schema import MANIFEST
from raytrain.errors import Diverged, UserError
from raytrain.local import free
from raytrain.lock import locked
from raytrain.show import SILENT, Show
from raytrain.startup import quiet
from raytrain.train.guards import stop
from raytrain.train.guards.out_of_memory import is_out_of_memory
from raytrain.train.local_worker import LocalTrainer, needs_ray
from raytrain.train.record import notices, phases

if TYPE_CHECKING:
    from raytrain.train.hooks.periodic import Report
    from raytrain.train.hooks.preemption import Preemption

FAILURE = "failure.json"
DIVERGED, MISTAKE, AGAIN = "diverged", "mistake", "again"
RESIZE_SECONDS = 20.0
"""How often an elastic run looks whether nodes came back: a change costs the steps since the last
checkpoint."""


def launch(
    config: Config,
    callbacks: Sequence[Any] = (),
    resume: str = "latest",
    executor: Executor | None = None,
    show: Show = SILENT,
    again: Config | None = None,
) -> dict[str, float]:
    """Train on Ray; where the executor has processes of this machine, and one worker is enough,
    in one of those. Without an executor as `prepare` does.

    Returns the newest value of every metric. A finished run goes on where it is made longer, or
    where `resume` makes it go back to another checkpoint: `best`, or a folder. With the settings
    `again` the same workers then train once more from the checkpoint before the last, as in a
    rehearsal. `callbacks` are Ray Train's own. Ctrl-C and SIGTERM raise KeyboardInterrupt once a
    checkpoint is written. Raises UserError for a mistake, and Ray's error or WorkerDied when
    workers died more often than `train.max_failures`.
    """
    with locked(
        config.output, "Another run is training", "two would take each other's checkpoints"
    ):
        with _chosen(config, executor) as executor:
            _await_snapshot(config, show.tell)
            begun = executor.call("raytrain.train.begin:begin", config=config, resume=resume)
            for said in begun["said"]:
                show.tell(said)
            if begun["result"] is not None:
                return dict(begun["result"])
            await_room(config, executor, show.tell)
            with show.training(config.output, begun["steps"]):
                while (failure := _fit(config, again, callbacks, executor, show)) and (
                    failure["kind"] == AGAIN
                ):
                    await_room(config, executor, show.tell)
            if failure:
                raise (Diverged if failure["kind"] == DIVERGED else UserError)(failure["message"])
            if config.train.async_validation:
                notes = "raytrain.train.hooks.async_validation:notes"
                for note in executor.call(notes, output=config.output):
                    show.tell(f"note: {note}")
    return dict(storage.read_json(storage.join(config.output, "train.json")))


def _chosen(config: Config, executor: Executor | None) -> AbstractContextManager[Executor]:
    """Return an executor that can train: Ray where that is needed, though images were prepared in
    processes of this machine, which then leave the workers the GPUs."""
    if executor is None or executor.machine is None or not needs_ray(config):
        return chosen(executor)
    if config.train.gpus_per_worker:
        executor.machine.end_idle()
    return chosen(None)


def _await_snapshot(config: Config, tell: Callable[[str], None]) -> None:
    """Wait for the first snapshot of a dataset that grows; where none comes, what follows says
    so."""
    manifest, minutes = storage.join(config.dataset, MANIFEST), config.cluster.wait_minutes
    if config.data.snapshot != GROWING or storage.exists(manifest):
        return
    tell(
        f"Waiting up to {minutes:g} minutes for the first snapshot of {config.dataset!r}, which "
        "`raytrain prepare` with this config publishes."
    )
    until = time.monotonic() + 60 * minutes
    while not storage.exists(manifest) and time.monotonic() < until:
        time.sleep(1)


def await_room(
    config: Config,
    executor: Executor,
    tell: Callable[[str], None],
    who: str = "A training worker",
) -> None:
    """Wait until there is room for the workers of a run, or raise UserError."""
    train = config.train
    need = Need(
        who, train.cpus_per_worker, train.gpus_per_worker, train.min_workers or train.workers,
        "train.workers, cpus_per_worker, gpus_per_worker",
    )  # fmt: skip
    executor.await_room(need, config.cluster.wait_minutes, tell)


class _Fit(threading.Thread):
    """A trainer at work, in a thread: Ctrl-C is then ours, and not Ray Train's own handler's,
    which lets no one save."""

    def __init__(self, trainer: Any) -> None:
        super().__init__(name="trainer", daemon=True)
        self._trainer = trainer
        self._error: BaseException | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # raised by `wait`
            self._error = error
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Wait for the end; raises what ended it."""
        # Not `join`: one that a signal interrupts takes a running thread for ended (Python 3.11,
        # measured).
        while not self._ended.wait(0.2):
            pass
        if self._error is not None:
            raise self._error


def _fit(
    config: Config,
    again: Config | None,
    callbacks: Sequence[Any],
    executor: Executor,
    show: Show,
) -> dict[str, str] | None:
    """Train, and return the failure a worker wrote down that a restart alone does not fix:
    `kind` and `message`."""
    path = storage.join(config.output, FAILURE)
    storage.remove(path)
    try:
        _wait(config, _trainer(config, again, callbacks, executor), show)
    except Exception:
        # of the workers that end with the one that wrote down why; without such a note it travels
        # on
        if not storage.exists(path):
            raise
    return dict(storage.read_json(path)) if storage.exists(path) else None


def _wait(config: Config, trainer: Any, show: Show) -> None:
    """Wait for a trainer.

    The first Ctrl-C or SIGTERM lets the workers write a checkpoint, a second ends at once; both
    raise.
    """
    if threading.current_thread() is not threading.main_thread():
        trainer.fit()
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    fit = _Fit(trainer)
    try:
        fit.start()
        fit.wait()
    except KeyboardInterrupt:
        stop.ask(config.output)
        show.warn("Stopping after this step, with a checkpoint. Ctrl-C again ends at once.")
        fit.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _trainer(
    config: Config, again: Config | None, callbacks: Sequence[Any], executor: Executor
) -> Any:
    train, gpu = config.train, config.train.gpus_per_worker > 0
    runs = [_absolute(each) for each in (config, again) if each is not None]
    if executor.machine is not None and not needs_ray(config):
        return LocalTrainer(runs, executor.machine)
    # Workers that may be fewer need not wait long for those that are gone.
    os.environ.setdefault(
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15" if train.min_workers else "60"
    )
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from raytrain.train.process_group import ProcessGroup

    resources = {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if gpu else {})}
    return DataParallelTrainer(
        run_worker,
        train_loop_config={"runs": [each.values() for each in runs]},
        scaling_config=ScalingConfig(
            num_workers=(train.min_workers, train.workers) if train.min_workers else train.workers,
            use_gpu=gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        # Later than the watchdog, whose message says more.
        backend_config=ProcessGroup(
            "nccl" if gpu else "gloo", timeout_s=int(60 * train.hang_minutes) + 30
        ),
        run_config=RunConfig(
            # Ray's own files; ours decide what a run is, so every launch gets a new name here.
            name=f"launch-{uuid.uuid4().hex[:8]}",
            storage_path=storage.join(runs[0].output, "ray"),
            failure_config=FailureConfig(max_failures=train.max_failures),
            callbacks=list(callbacks),
        ),
    )


def run_worker(settings: dict[str, Any]) -> None:
    """Train as one worker of Ray Train."""
    import ray.train

    from raytrain.train.hooks.preemption import Preemption

    context = ray.train.get_context()
    work(
        *map(parse, settings["runs"]),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        report=ray.train.report,
        preemption=Preemption(),
    )


def work(
    config: Config,
    again: Config | None = None,
    *,
    rank: int,
    world_size: int,
    report: Report | None,
    preemption: Preemption | None = None,
) -> None:
    """Train as one worker, and `again` from the checkpoint before the last.

    A user's mistake is written down, since a restart would not fix it.

    A mistake that only one of several workers met ends the group, so that the others do not wait
    for it; the group that Ray starts next finds the note and ends at once.
    """
    quiet()
    from raytrain.train.worker import train

    failure = storage.join(config.output, FAILURE)
    if storage.exists(failure):
        return
    try:
        train(config, report, rank=rank, world_size=world_size, preemption=preemption)
        if preemption is not None and preemption.told:
            if rank == 0:
                storage.write_json(failure, {"kind": AGAIN, "message": preemption.told})
            return
        if again is not None:
            _go_back(again.output, rank, world_size)
            train(again, report, rank=rank, world_size=world_size)
    except Diverged as error:  # every worker meets a divergence at the same step
        if rank == 0:
            storage.write_json(failure, {"kind": DIVERGED, "message": str(error)})
    except UserError as error:
        storage.write_json(failure, {"kind": MISTAKE, "message": str(error)})
        if world_size > 1:
            raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(
            error
        ):  # a smaller micro-batch is written down, for all workers to start with
            storage.write_json(failure, {"kind": AGAIN, "message": str(error)})
        else:
            _tell(config, rank, error)
        raise
    except Exception as error:
        _tell(config, rank, error)
        raise


def _go_back(output: str, rank: int, world_size: int) -> None:
    """Make the checkpoint before the last the one that a run goes on from; a collective."""
    from torch import distributed

    from raytrain import checkpoint

    free()
    if world_size > 1:
        distributed.barrier()
    if rank == 0:
        storage.move(storage.join(output, phases.FILE), storage.join(output, phases.BEFORE))
        checkpoint.go_back(output, checkpoint.listing(output)[0])
    if world_size > 1:
        distributed.barrier()


def _tell(config: Config, rank: int, error: Exception) -> None:
    """Say at once what a worker failed of: what is raised in the end comes after every restart."""
    told = f"Worker {rank} failed with {type(error).__name__}: {error}"
    notices.tell(config.output, told, rank)


def _absolute(config: Config) -> Config:
    """Return the config with local folders made absolute: workers run in other folders than the
    driver."""
    if not storage.is_local(config.output):
        return config
    tree = config.values()
    tree["output"] = os.path.abspath(config.output)
    tree["data"]["dataset"] = storage.resolve(config.dataset)[1]
    for table, key in (
        ("model", "path"),
        ("model", "vae"),
        ("method", "path"),
        ("evaluate", "clip"),
        ("evaluate", "aesthetic"),
        ("sample", "prompt_file"),
    ):
        value = tree[table].get(key)
        if value and os.path.exists(value):
            tree[table][key] = os.path.abspath(value)
    controls = tree["sample"]["controls"]
    tree["sample"]["controls"] = [
        os.path.abspath(path) if os.path.exists(path) else path for path in controls
    ]
    return parse(tree)
