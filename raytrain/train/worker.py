"""One worker's training from start to end, with or without a Ray session.

from raytrain.train.worker import train
# one process, no Ray: tests, profiling, a bare GPU machine
train(config)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from raytrain import storage
from raytrain.batch import Columns
from raytrain.config import Config
from raytrain.data.loading.loader import Captions, Loader, Step, prefetch
from raytrain.errors import UserError
from raytrain.startup import quiet
from raytrain.train import growing
from raytrain.train.engines import speed
from raytrain.train.guards import out_of_memory
from raytrain.train.guards.divergence import diverged
from raytrain.train.guards.self_test import SelfTest
from raytrain.train.hooks import periodic, profile
from raytrain.train.hooks.periodic import Hook, Report
from raytrain.train.hooks.preemption import Preemption
from raytrain.train.lr_schedule import learning_rate
from raytrain.train.run import Run, start

READ_STEPS = 10
"""Steps of a GPU whose numbers are read together."""


def train(
    config: Config,
    report: Report | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    preemption: Preemption | None = None,
) -> dict[str, float]:
    """Train until the last step, going on from the last checkpoint;
    returns the newest value of every metric.

    Asked to stop (`raytrain.train.guards.stop`), or told by `preemption` that a node will be lost,
    it writes a checkpoint after the step that runs, and returns without a `train.json`. `report`
    gets the scores of every evaluation (`train.score_every`). Raises UserError for a mistake in
    config or data and Diverged, before the optimizer step, when the loss is no number any more.
    """
    quiet()
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    run = start(config, rank, world_size)
    try:
        with periodic.build(run, report, preemption) as hooks:
            loop(run, [*profile.hooks(run), *hooks])
    finally:
        run.close()
    if run.is_main and run.step == run.total_steps:
        storage.write_json(
            storage.join(config.output, "train.json"), {"step": run.step, **run.metrics}
        )
    return run.metrics


@dataclass(frozen=True)
class Done:
    """A step that was done, whose numbers may still be on the device."""

    step: Step
    draws: Columns
    rate: float
    numbers: Tensor
    """(4,): the mean loss over all workers' rows, whether one is asked to stop,
    the clock's minutes, the gradient's norm."""


def loop(run: Run, hooks: list[Hook]) -> None:
    """Take every step from `run.step` to the end, or until asked to stop,
    calling each hook when it is due."""
    if run.step == 0:
        _call(hooks, run)
    test: SelfTest | None = SelfTest(run.model, run.engine, run.world_size)
    unread: list[Done] = []
    for step, draws in run.pace.waiting(batches(run)):
        run.beat(f"step {step.number + 1}")
        rate = learning_rate(run.step, run.config.train, run.total_steps)
        unread.append(Done(step, draws, rate, optimizer_step(run, step, draws, rate)))
        run.step += 1
        run.sample_log.add(step)
        run.pace.images += step.global_rows
        due = test is not None or any(hook.due(run) for hook in hooks)
        if not (due or run.engine.waits or len(unread) == READ_STEPS):
            # reading a number waits for the device, which could start the next step
            # meanwhile
            continue
        norm = read(run, unread)
        if test is not None and math.isfinite(norm):  # fp16 may pass over its first steps
            test.check()
            test = None
            run.compare_memory()
        _call(hooks, run)
        if run.stopping:
            run.save()
            return


def read(run: Run, unread: list[Done]) -> float:
    """Record the numbers of steps in order and forget the steps; returns the last gradient's norm.

    Raises Diverged for the first that was not finite; the engine has changed no weight since.
    """
    for done, numbers in zip(
        unread, torch.stack([done.numbers for done in unread]).tolist(), strict=True
    ):
        loss, stopping, minutes, norm = numbers
        run.stopping, run.minutes = (
            run.stopping or stopping > 0,
            (run.minutes[1], minutes * run.world_size),
        )
        if not math.isfinite(loss) or not (math.isfinite(norm) or run.engine.scale):
            raise diverged(run, done.step, done.draws, done.rate, loss, norm)
        values = {
            "loss": loss,
            "learning_rate": done.rate,
            "epoch": float(done.step.epoch),
            "gradient_norm": norm,
        }
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        run.record(finite, step=done.step.number + 1)
    unread.clear()
    return float(norm)


def batches(run: Run) -> Iterator[tuple[Step, Columns]]:
    """Yield the batch and the draws of every step from `run.step` to the end, made ahead;
    in pinned memory for a GPU. Where a segment ends, the next one begins, which is a
    collective."""
    number = run.step
    while number < run.total_steps:
        if number == run.batch_sampler.total_steps:
            growing.move_on(run)
        end = min(run.batch_sampler.total_steps, run.total_steps)
        yield from _batches(run, range(number, end))
        number = end


def _batches(run: Run, numbers: range) -> Iterator[tuple[Step, Columns]]:
    loader = Loader(
        run.dataset,
        run.batch_sampler,
        rank=run.rank,
        world_size=run.world_size,
        captions=Captions.of(run.config, run.total_steps),
        columns=run.model.columns,
    )

    def make(number: int) -> tuple[Step, Columns]:
        step = loader.step(number)
        draws = run.model.draw(step.batch)
        if run.device.type == "cuda":
            return replace(step, batch=step.batch.pin()), draws.pin()
        return step, draws

    return prefetch(make, numbers)


def optimizer_step(run: Run, step: Step, draws: Columns, rate: float) -> Tensor:
    """Do one optimizer step and return its numbers (see `Done`), without waiting for the device.

    Out of memory, a step is done again with half as many images at a time.
    """
    while True:
        try:
            with speed.deterministic(run.config.train, run.device):
                total = _gradients(run, step, draws)
            break
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory.is_out_of_memory(error):
                raise
            _shrink(run, step, error)
    asked = float(run.watch is not None and run.watch.asked())
    clock = run.clock.minutes() if run.is_main else 0.0
    shared = run.mean(
        torch.cat([total[None], torch.tensor([asked, clock]).to(run.device, non_blocking=True)])
    )
    norm = run.engine.step(rate, shared[0], run.step)
    if run.ema is not None:
        run.ema.update(run.engine.local())
    return torch.cat([shared, norm.detach().to(run.device)[None]])


def _gradients(run: Run, step: Step, draws: Columns) -> Tensor:
    """Add up the gradients of a step's micro-batches; returns this worker's part of the loss."""
    total = torch.zeros((), device=run.device)
    share = (
        run.world_size / step.global_rows
    )  # engines average over workers, rows may be padded: weigh by real rows
    for batch, draw in zip(
        step.batch.split(run.micro_batch), draws.split(run.micro_batch), strict=True
    ):
        batch, draw = batch.to(run.device), draw.to(run.device)
        with run.autocast():
            losses = run.engine.model(batch, draw)
        loss: Tensor = (losses * batch.weights).sum() * share
        total += loss.detach()
        run.engine.backward(loss)
    return total


def _shrink(run: Run, step: Step, error: Exception) -> None:
    """Halve the micro-batch, here where this worker is alone, else for the workers that start
    next; raises where it cannot."""
    where = (
        f"Memory ran out at step {step.number + 1} (bucket {step.bucket}) with {run.micro_batch} "
        "images at a time"
    )
    if run.micro_batch == 1:
        raise UserError(
            f"{where} ({error}); there is no smaller micro-batch. {out_of_memory.REMEDY}"
        ) from error
    smaller = -(-run.micro_batch // 2)
    run.tell(
        f"{where}. Going on with {smaller} at a time; a step is still "
        f"{run.config.train.global_batch} images."
    )
    out_of_memory.remember(run.config.output, smaller)
    if run.choice.engine != "plain":
        # the others wait for this worker in the middle of the step: all restart from the
        # checkpoint
        raise error
    run.engine.zero_grad()
    run.micro_batch = smaller
    if run.device.type == "cuda":
        torch.cuda.empty_cache()


def _call(hooks: list[Hook], run: Run) -> None:
    due = [hook for hook in hooks if hook.due(run)]
    if not due:
        return
    with run.clock.paused(), run.engine.inference():
        for hook in due:
            run.beat(hook.name)
            hook.call(run)
