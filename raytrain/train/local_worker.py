"""One worker on this machine, without Ray: a process of its own,
watched and restarted as Ray Train does with its workers."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

from raytrain import plugins, storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.pipeline.executor import Executor, named
from raytrain.local import MODELS, TRAINED, Died, Machine
from raytrain.train.guards import out_of_memory
from raytrain.train.record import notices


class WorkerDied(RuntimeError):  # noqa: N818
    """The worker ended more often than it may."""


def needs_ray(config: Config) -> bool:
    """Tell whether training needs Ray: one worker on this machine, with nothing beside it,
    is a process."""
    return config.train.workers > 1 or config.train.async_validation


def reserve(config: Config, machine: Machine) -> None:
    """Start the worker's process while the command still checks,
    where there is something to train."""
    if not storage.exists(storage.join(config.output, "train.json")):
        machine.reserve(MODELS, *_modules(config))


def call(
    config: Config, executor: Executor, function: str, /, *, leave: str = "", **settings: Any
) -> Any:
    """Call the function of a name in the process that training or encoding left, else in a new
    one; on Ray where there is room for a training worker. The process is left for another role,
    or ended."""
    machine, train = executor.machine, config.train
    if machine is None:
        cpus, gpus = train.cpus_per_worker, train.gpus_per_worker
        return executor.compute(function, cpus, gpus, **settings)
    machine.reuse(MODELS, TRAINED)
    process = machine.take(TRAINED, *_modules(config))
    try:
        result = process.call(_called, function, settings)
    except BaseException:
        process.end()
        raise
    if leave:
        machine.give_back(leave, process)
    else:
        process.end()
    return result


class LocalTrainer:
    """Has the verb of Ray's trainers that a launch needs."""

    def __init__(self, runs: Sequence[Config], machine: Machine) -> None:
        """Take the settings of a run, and those of what goes on from it; see `launch`."""
        self._runs, self._config, self._machine = runs, runs[0], machine

    def fit(self) -> None:
        """Train to the end; raises WorkerDied when the worker died more often than
        `train.max_failures`."""
        budget, failures = self._config.train.max_failures, 0
        while ended := self._run():
            failures += 1
            if failures > budget:
                raise WorkerDied(
                    f"The worker ended with {ended}, after {budget} others (train.max_failures = "
                    f"{budget}). What it was doing is above. The same command goes on from the "
                    "last checkpoint."
                )
            told = (
                f"The worker ended with {ended}; it starts anew from the last checkpoint "
                f"({failures} of {budget})."
            )
            notices.tell(self._config.output, told)

    def _run(self) -> str | None:
        """Train in a process of its own; returns how it ended, if it did before its time."""
        self._machine.end_idle(TRAINED)  # no run goes on in the process of another
        kills = out_of_memory.kernel_kills()
        try:
            process = self._machine.take(MODELS, *_modules(self._config))
            process.call(_train, [each.values() for each in self._runs])
        except Died as died:
            how = str(died)
            return (
                how + self._for_memory()
                if how == "SIGKILL" and out_of_memory.kernel_kills() > kills
                else how
            )
        self._machine.give_back(TRAINED, process)
        return None

    def _for_memory(self) -> str:
        """Let the next process take half as many images at a time; returns what to say of it."""
        taken = out_of_memory.micro_batch(self._config, 1)
        told = f" by the kernel, as memory ran out with {taken} images at a time"
        if taken == 1:
            return f"{told} (there is no smaller micro-batch. {out_of_memory.REMEDY})"
        smaller = -(-taken // 2)
        out_of_memory.remember(self._config.output, smaller)
        return (
            f"{told} (from now on {smaller}; a step is still {self._config.train.global_batch} "
            "images)"
        )


def _called(function: str, settings: dict[str, Any]) -> Any:
    return named(function)(**settings)


def _modules(config: Config) -> tuple[str, ...]:
    return ("raytrain.train.worker", plugins.module_name("families", config.model.family))


def _train(runs: list[dict[str, Any]]) -> None:
    from raytrain.train.launch import work

    try:
        work(*map(parse, runs), rank=0, world_size=1, report=None)
    except (
        Exception
    ):  # the process has failed, and says why; the next one starts from the checkpoint
        traceback.print_exc()
        raise SystemExit(1) from None
