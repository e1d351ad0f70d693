"""Everything periodic in a run: held-out loss, validation pictures, scores, checkpoints; each a hook with `every=N`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image

from raytrain import held_out, sample, storage
from raytrain.evaluate.run import scores
from raytrain.evaluate.subject import Judges, Subject
from raytrain.train.run import Run

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Hook:
    """Something done every `every` steps (0: never in between), and at the start and the end where asked."""

    name: str
    call: Callable[[Run], None]
    every: int
    at_start: bool = False
    at_end: bool = True

    def due(self, run: Run) -> bool:
        """Tell whether the hook is due after `run.step` steps."""
        if run.step == 0:
            return self.at_start
        if run.step == run.total_steps:
            return self.at_end
        return bool(self.every) and run.step % self.every == 0


def build(run: Run, report: Report | None) -> list[Hook]:
    """Return a run's hooks in the order they run; the checkpoint is last, so that it holds the others' metrics."""
    train, pictures = run.config.train, Pictures(run)
    hooks = [
        Hook("held_out", held_out_loss, train.held_out_every, at_start=True),
        Hook("sample", pictures.validate, train.sample_every, at_start=True),
    ]
    if train.score_every:
        # A sweep looks at numbers alone: its trials make pictures only where scores need them.
        hooks = [Hook("score", lambda run: pictures.score(run, report), train.score_every)]
    return [*hooks, Hook("checkpoint", Run.save, train.checkpoint_every)]


def held_out_loss(run: Run) -> None:
    """Record the held-out loss; a collective."""
    losses = _held_out_losses(run)
    if losses:
        run.record({"held_out_loss": sum(losses) / len(losses)})


class Pictures:
    """Pictures of the live model: validation grids and scores. The pipeline around the denoiser is built once."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def validate(self, run: Run) -> None:
        """Write validation pictures and their grid to `samples/step-<n>`; every worker runs where weights are sharded."""
        made = self._generate()
        if made is None or not run.leads:
            return
        folder = storage.join(run.config.output, "samples", f"step-{run.step:08d}")
        for number, picture in enumerate(made):
            sample.save_picture(picture, storage.join(folder, f"{number:03d}.png"))
        columns = run.config.sample.pictures_per_prompt
        rows = [made[i : i + columns] for i in range(0, len(made), columns)]
        sheet = sample.grid(list(zip(*rows, strict=True)), column_labels=self._texts)
        sample.save_picture(sheet, storage.join(folder, "grid.png"))
        storage.write_json(storage.join(folder, "prompts.json"), self._texts)
        if run.log is not None:
            run.log.picture(run.step, "samples", sheet)

    def score(self, run: Run, report: Report | None) -> None:
        """Record the scorers' means and hand them to `report`; every worker takes part where it must."""
        losses = _held_out_losses(run)
        wanted = run.config.evaluate.scorers
        made = self._generate() if set(wanted) - {"held_out_loss"} else []
        values: dict[str, float] = {}
        if run.leads and made is not None:
            per_prompt = run.config.sample.pictures_per_prompt if made else 0
            texts = [text for text in self._texts for _ in range(per_prompt)]
            subject = Subject(run.config, made, texts, self._judges, (lambda: losses) if losses else None)
            values = {name: score.mean for name, score in scores(subject).items()}
            run.record(values)
        if report is not None:
            report({"step": float(run.step), **values})

    def _generate(self) -> list[Image.Image] | None:
        if not (self._run.leads or self._run.engine.sharded):
            return None
        width, height = sample.size(self._run.config, self._run.dataset.manifest)
        with torch.no_grad(), self._run.autocast():
            return sample.generate(self._pipeline, self._texts, self._run.config.sample, width, height)

    @cached_property
    def _pipeline(self) -> Any:
        run = self._run
        return sample.build_pipeline(run.config, run.denoiser, run.device)

    @cached_property
    def _texts(self) -> list[str]:
        return sample.prompts(self._run.config, self._run.dataset)

    @cached_property
    def _judges(self) -> Judges:
        return Judges(self._run.config, self._run.device)


def _held_out_losses(run: Run) -> list[float]:
    with run.autocast():
        return held_out.losses(
            run.objective, run.denoiser, run.dataset, run.config.evaluate, rank=run.rank, world=run.world
        )
