"""Images and scores on a separate Ray actor while training continues:
`train.async_validation = true`.

The main process sends a copy of the trained weights, with its step, and continues. The actor works
on one step at a time; one more may wait, and a newer one replaces it. A result is recorded under
its step, at the latest at the end of the run. Steps that were skipped, or failed because the actor
died or a scorer raised, are written to `<output>/async_validation.json` and reported at the end of
the run; they say nothing about the weights, so they do not stop training. A dead actor is replaced
for the next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from raytrain import storage
from raytrain.config import TrainConfig
from raytrain.config.file import parse
from raytrain.data.loading.read import Dataset
from raytrain.errors import UserError
from raytrain.model import Model
from raytrain.startup import quiet
from raytrain.train.hooks.images import Images
from raytrain.train.record import notices
from raytrain.train.run import Run, load_model

NOTES = "async_validation.json"
BUSY = (
    "the actor was still busy with an earlier step. Validate less often (train.sample_every, "
    "train.score_every), or give it more (train.async_validation_cpus, "
    "train.async_validation_gpus)."
)
PLACE_SECONDS = 600.0
"""Time limit for placing the actor, a new machine included."""


@dataclass(frozen=True)
class Request:
    """The weights of one step, and what to make of them."""

    step: int
    weights: dict[str, np.ndarray]
    images: bool = False
    scorers: tuple[str, ...] = ()
    losses: list[float] = field(default_factory=list)
    """Of the held-out images."""


@dataclass(frozen=True)
class Made:
    """The actor's answer."""

    sheet: Image.Image | None
    scores: dict[str, float]


class Maker:
    """The actor: a separate model that loads the weights of one step after another."""

    def __init__(self, values: dict[str, Any]) -> None:
        quiet()
        self._config = parse(values)
        self._device = torch.device("cuda" if self._config.train.async_validation_gpus else "cpu")
        torch.set_num_threads(max(1, int(self._config.train.async_validation_cpus)))

    def ready(self) -> None:
        """Answer once the actor has its place."""

    def make(self, request: Request) -> Made:
        """Draw and score with the weights of a request."""
        # Loaded here and not in `__init__`, where Ray would hide which error it was.
        self._model.load({name: torch.tensor(value) for name, value in request.weights.items()})
        sheet = self._images.write(request.step) if request.images else None
        scores = (
            self._images.score(request.step, request.scorers, request.losses)
            if request.scorers
            else {}
        )
        return Made(sheet, scores)

    @cached_property
    def _model(self) -> Model:
        return load_model(self._config, self._device)

    @cached_property
    def _images(self) -> Images:
        tell = partial(notices.tell, self._config.output)
        return Images(
            self._config, Dataset.of(self._config, self._device), self._model, self._device, tell
        )


class AsyncValidation:
    """The run's side: a context whose end waits for outstanding requests, unless an exception
    ends it.

    Every worker has one, since sharded weights are gathered together; only the main process calls
    the actor. Raises UserError without a Ray session, or when the cluster has no room for the
    actor.
    """

    def __init__(self, run: Run) -> None:
        _check_room(run.config.train, run.world_size)
        self._run, self._uri = run, storage.join(run.config.output, NOTES)
        self._notes = _kept(run) if run.is_main else {}
        self._wanted: dict[str, Any] = {}
        self._waiting: Request | None = None
        self._busy: tuple[int, Future[Made]] | None = None
        self._actor: Any = None
        self._thread = ThreadPoolExecutor(
            1, "async_validation"
        )  # everything that takes time, so that no step waits for it

    def want_images(self) -> None:
        """Have this step's validation images made."""
        self._wanted["images"] = True

    def want_scores(self, scorers: Sequence[str], losses: list[float]) -> None:
        """Have this step judged by some scorers; `losses` are those of the held-out images."""
        if scorers:
            self._wanted |= {"scorers": tuple(scorers), "losses": losses}

    def turn(self, run: Run) -> None:
        """Record finished results, and send this step's weights if something is requested (a
        collective in that case)."""
        self._take()
        if not self._wanted:
            return
        weights = run.weights()
        if run.is_main:
            if self._waiting is not None:
                self._note(self._waiting.step, BUSY)
            # Arrays pass Ray's object store in a fifteenth of the time of tensors (measured);
            # float() changes no value.
            arrays = {name: value.float().numpy() for name, value in weights.items()}
            self._waiting = Request(run.step, arrays, **self._wanted)
            self._take()
        self._wanted = {}

    def __enter__(self) -> AsyncValidation:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        import ray

        try:
            if kind is None:
                self._run.beat("waiting for asynchronous validation")
                self._take(wait=True)
        finally:
            if self._actor is not None:
                ray.kill(self._actor)
            self._thread.shutdown()

    def _take(self, *, wait: bool = False) -> None:
        """Record finished results, or with `wait` all outstanding ones; start the next one."""
        while self._busy or self._waiting:
            if self._busy is not None:
                step, made = self._busy
                if not (wait or made.done()):
                    return
                self._busy = None
                self._record(step, made)
            if self._waiting is not None:
                self._busy = self._waiting.step, self._thread.submit(self._ask, self._waiting)
                self._waiting = None

    def _record(self, step: int, made: Future[Made]) -> None:
        from ray.exceptions import RayError

        try:
            scores = made.result().scores
        except (RayError, UserError) as error:
            self._note(step, _reason(error))
            return
        if scores:
            self._run.record(scores, step=step)

    def _note(self, step: int, why: str) -> None:
        self._notes[str(step)] = why
        storage.write_json(self._uri, self._notes)

    def _ask(self, request: Request) -> Made:
        """Return the answer to one request, from a new actor if there is none or the last one
        died; runs in the thread."""
        import ray

        try:
            if self._actor is None:
                self._actor = self._start()
            made: Made = ray.get(self._actor.make.remote(request))
        except ray.exceptions.RayActorError:
            self._actor = None
            raise
        if made.sheet is not None and self._run.log is not None:
            self._run.log.image(request.step, "samples", made.sheet)
        return made

    def _start(self) -> Any:
        import ray

        train = self._run.config.train
        # DEFAULT: outside the workers' placement group, whose resources are all theirs.
        options = {
            "num_cpus": train.async_validation_cpus,
            "num_gpus": train.async_validation_gpus,
            "scheduling_strategy": "DEFAULT",
        }
        actor = self._actor = (
            ray.remote(Maker).options(**options).remote(self._run.config.values())
        )
        try:
            ray.get(actor.ready.remote(), timeout=PLACE_SECONDS)
        except ray.exceptions.GetTimeoutError:
            ray.kill(actor)
            self._actor = None
            raise UserError(
                "The cluster had no place for train.async_validation_cpus = "
                f"{train.async_validation_cpus:g} and train.async_validation_gpus = "
                f"{train.async_validation_gpus:g} within {PLACE_SECONDS:g} s, since others hold "
                "its resources."
            ) from None
        return actor


def notes(output: str) -> list[str]:
    """Return a line for each reason why steps of a run have no images or scores."""
    uri = storage.join(output, NOTES)
    found: dict[str, list[str]] = {}
    for step, why in (storage.read_json(uri) if storage.exists(uri) else {}).items():
        found.setdefault(why, []).append(step)
    return [
        f"The images or scores of step {', '.join(steps)} are missing: {why}"
        for why, steps in found.items()
    ]


def _kept(run: Run) -> dict[str, str]:
    """Return the notes of earlier launches on steps that are not repeated."""
    uri = storage.join(run.config.output, NOTES)
    if not storage.exists(uri):
        return {}
    old = {
        step: why
        for step, why in storage.read_json(uri).items()
        if run.step and int(step) <= run.step
    }
    storage.write_json(uri, old)
    return old


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, UserError):
        return str(cause)
    return f"{type(cause).__name__}: {(str(cause).strip() or 'no message').splitlines()[0]}"


def _check_room(train: TrainConfig, world_size: int) -> None:
    import ray

    if not ray.is_initialized():
        raise UserError(
            "train.async_validation = true makes images and scores on a Ray actor, but this "
            "process is not connected to Ray and cannot start one. Train with `raytrain train`, "
            "or set train.async_validation = false."
        )
    there = ray.cluster_resources()
    asked = {
        "CPU": (train.async_validation_cpus, train.cpus_per_worker),
        "GPU": (train.async_validation_gpus, train.gpus_per_worker),
    }
    for kind, (own, each) in asked.items():
        if own and there.get(kind, 0) < own + world_size * each:
            raise UserError(
                f"train.async_validation_{kind.lower()}s = {own:g} must be free in addition to "
                f"the {world_size * each:g} {kind}s of the workers, but the cluster has "
                f"{there.get(kind, 0):g}, so the actor would wait forever. Lower it or "
                "train.workers, add a machine, or set "
                "train.async_validation = false."
            )
