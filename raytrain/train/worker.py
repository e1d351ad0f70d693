"""One worker's training: the whole of it, with or without a Ray session around.

from raytrain.train.worker import train
train(config)                                 # one process, no Ray: tests, profiling, a bare GPU machine
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.data.loader import Loader, Step, prefetch
from raytrain.errors import Diverged
from raytrain.log import quiet
from raytrain.objective import Draws
from raytrain.train import hooks as periodic
from raytrain.train import profile
from raytrain.train.hooks import Hook, Report
from raytrain.train.optim import learning_rate
from raytrain.train.run import Run, start


def train(config: Config, report: Report | None = None, *, rank: int = 0, world: int = 1) -> dict[str, float]:
    """Train until the last step, going on from the last checkpoint; returns the newest value of every metric.

    Asked to stop (`raytrain.train.stop`) it writes a checkpoint after the step that runs, and returns without a `train.json`.
    `report` gets the scores of every evaluation (`train.score_every`). Raises UserError for a mistake in config or data and
    Diverged, before the optimizer step, when the loss is no number any more.
    """
    quiet()
    torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    run = start(config, rank, world)
    try:
        loop(run, [*profile.hooks(run), *periodic.build(run, report)])
    finally:
        run.close()
    if run.leads and run.step == run.total_steps:
        storage.write_json(storage.join(config.output, "train.json"), {"step": run.step, **run.metrics})
    return run.metrics


def loop(run: Run, hooks: list[Hook]) -> None:
    """Take every step from `run.step` to the end, or until asked to stop, calling each hook when it is due."""
    dropout = run.config.objective.caption_dropout
    loader = Loader(run.dataset, run.ledger, rank=run.rank, world=run.world, caption_dropout=dropout)

    def make(number: int) -> tuple[Step, Draws]:
        step = loader.step(number)
        return step, run.objective.draw(step.batch)

    if run.step == 0:
        _call(hooks, run)
    for step, draws in prefetch(make, range(run.step, run.total_steps)):
        rate = learning_rate(run.step, run.config.train, run.total_steps)
        loss, norm = optimizer_step(run, step, draws, rate)
        run.step += 1
        run.trail.add(step)
        values = {"loss": loss, "learning_rate": rate, "epoch": float(step.epoch), "gradient_norm": norm}
        run.record({name: value for name, value in values.items() if math.isfinite(value)})
        _call(hooks, run)
        if run.stopping:
            run.save()
            return


def optimizer_step(run: Run, step: Step, draws: Draws, rate: float) -> tuple[float, float]:
    """Do one optimizer step; returns the mean loss over all workers' rows and the gradient's norm before clipping."""
    total = torch.zeros((), device=run.device)
    share = run.world / step.global_rows  # engines average over workers, rows may be padded: weigh by real rows
    for batch, draw in zip(step.batch.split(run.micro_batch), draws.split(run.micro_batch), strict=True):
        batch, draw = batch.to(run.device), draw.to(run.device)
        with run.autocast():
            losses = run.objective.losses(run.engine.model, batch, draw)
        loss: Tensor = (losses * batch.weights).sum() * share
        total += loss.detach()
        run.engine.backward(loss)
    asked = float(run.watch is not None and run.watch.asked())
    mean, stopping = run.mean(torch.stack([total, total.new_tensor(asked)])).tolist()
    run.stopping = stopping > 0
    if not math.isfinite(mean):
        raise Diverged(_diverged(run, step, mean, rate))
    norm = run.engine.step(rate)
    if run.ema is not None:
        run.engine.gathered(lambda: run.ema and run.ema.update(run.method.state(run.denoiser)))
    return mean, float(norm)


def _call(hooks: list[Hook], run: Run) -> None:
    for hook in hooks:
        if hook.due(run):
            hook.call(run)


def _diverged(run: Run, step: Step, loss: float, rate: float) -> str:
    found = checkpoint.listing(run.config.output)
    kept = f"The last checkpoint, {found[-1]}, is from before it." if found else "There is no checkpoint yet."
    return (
        f"The loss became {loss} at step {step.number + 1} (learning rate {rate:.3g}, bucket {step.bucket}); training stopped "
        f'before the optimizer used it. {kept} Lower train.learning_rate, add train.warmup or use precision = "fp32".'
    )
