"""Everything periodic in a run: log, held-out loss, validation images, scores, checkpoints;
each a hook with a period."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from raytrain import held_out
from raytrain.config.period import Every
from raytrain.train.hooks.async_validation import AsyncValidation
from raytrain.train.hooks.images import WITHOUT_IMAGES, Images, needs_images
from raytrain.train.hooks.preemption import EVERY, Preemption
from raytrain.train.run import Run

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Hook:
    """Something done when a multiple of `every` is reached (0: never in between),
    and at the start and the end where asked."""

    name: str
    call: Callable[[Run], None]
    every: Every
    at_start: bool = False
    at_end: bool = True

    def due(self, run: Run) -> bool:
        """Return whether the hook is due after `run.step` steps; the same on every worker.

        An epoch ends with the last step that the batch sampler counts to it.
        """
        if run.step == 0:
            return self.at_start
        if run.step == run.total_steps:
            return self.at_end
        if self.every.unit == "minutes":
            return self.every.passed(*run.minutes)
        before, now = run.step - 1, run.step
        if self.every.unit == "epochs":
            before, now = run.batch_sampler.epoch_of(before)[0], run.batch_sampler.epoch_of(now)[0]
        return self.every.passed(before, now)


@contextmanager
def build(
    run: Run, report: Report | None, preemption: Preemption | None = None
) -> Iterator[list[Hook]]:
    """Make a run's hooks; the end of the block waits for asynchronous validation, unless an
    exception ends it."""
    with (
        AsyncValidation(run) if run.config.train.async_validation else nullcontext() as validation
    ):
        hooks = _hooks(run, report, validation)
        if preemption is not None:
            hooks.append(Hook("preemption", preemption.look, EVERY, at_end=False))
        yield hooks


def _hooks(run: Run, report: Report | None, validation: AsyncValidation | None) -> list[Hook]:
    """Return the hooks in the order they run; the checkpoint is last,
    so that it holds the others' metrics."""
    train = run.config.train
    tell = {"tell": run.tell} if run.is_main else {}
    images = Images(run.config, run.dataset, run.model, run.device, **tell)
    hooks = []
    if train.held_out_every.number or not train.score_every.number:
        hooks.append(Hook("held_out", held_out_loss, train.held_out_every, at_start=True))
    if train.sample_every.number or not train.score_every.number:
        hooks.append(
            Hook(
                "sample",
                lambda run: _sample(run, images, validation),
                train.sample_every,
                at_start=True,
            )
        )
    if train.score_every.number:
        hooks.append(
            Hook("score", lambda run: _score(run, images, validation, report), train.score_every)
        )
    if validation is not None:
        hooks.append(Hook("async_validation", validation.turn, Every(1), at_start=True))
    return [
        *hooks,
        Hook("log", _send, train.log_every),
        Hook("checkpoint", Run.save, train.checkpoint_every),
    ]


def held_out_loss(run: Run) -> None:
    """Record the held-out loss; a collective."""
    losses = _held_out_losses(run)
    if losses:
        run.record({"held_out_loss": sum(losses) / len(losses)})


def _sample(run: Run, images: Images, validation: AsyncValidation | None) -> None:
    """Write validation images; every worker draws where weights are sharded."""
    if validation is not None:
        validation.want_images()
    elif run.is_main:
        sheet = images.write(run.step)
        if run.log is not None:
            run.log.image(run.step, "samples", sheet)
    elif run.engine.sharded:
        images.draw(run.step)


def _score(
    run: Run, images: Images, validation: AsyncValidation | None, report: Report | None
) -> None:
    """Record the scorers' means and pass them to `report`; scores of asynchronous validation
    follow later, unreported."""
    losses = _held_out_losses(run)
    scorers = run.config.evaluate.scorers
    here = [name for name in scorers if validation is None or name in WITHOUT_IMAGES]
    values: dict[str, float] = {}
    if run.is_main:
        values = images.score(run.step, here, losses)
        run.record(values)
    elif run.engine.sharded and needs_images(here):
        images.draw(run.step)
    if validation is not None:
        validation.want_scores([name for name in scorers if name not in here], losses)
    if report is not None:
        report({"step": float(run.step), **values})


def _held_out_losses(run: Run) -> list[float]:
    with run.autocast():
        return held_out.losses(
            run.model, run.dataset, run.config.evaluate, rank=run.rank, world_size=run.world_size
        )


def _send(run: Run) -> None:
    if run.log is not None:
        if pace := run.pace.take(run.clock.minutes()):
            run.log.metrics(run.step, pace)
        run.log.send()
