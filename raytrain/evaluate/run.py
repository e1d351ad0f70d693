"""Evaluation: base model and checkpoint draw the same prompts from the same seeds,
and scorers judge both. Words that the method teaches are left out of the base's prompts and of the
judges', which do not know them.

<output>/evaluation/base/000.png, tuned/000.png   the images
<output>/evaluation/base-vs-tuned.png             all of them on one sheet
<output>/evaluation/report.json                   every number, written last: without it there was
                                                  no evaluation
<output>/report.html, evaluation/report.html      the same for people
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image

from raytrain import checkpoint, held_out, methods, provenance, sample, storage
from raytrain.checkpoint import Learned
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.errors import Diverged, UserError
from raytrain.evaluate import run_folder, scorers
from raytrain.evaluate.report import write_report
from raytrain.evaluate.statistics import Difference, Score, compare, summarize
from raytrain.evaluate.subject import Judges, Subject
from raytrain.evaluate.verdict import headline, overfit
from raytrain.local import free
from raytrain.lock import locked
from raytrain.log import read_metrics
from raytrain.sampling.cut import tell_cut
from raytrain.sampling.grid import grid, save_image
from raytrain.sampling.prompts import Prompt, prompts
from raytrain.sampling.workers import Helper, draw_together, helpers
from raytrain.startup import quiet

Values = dict[str, list[float]]
"""Scorer name -> one value a sample."""


def scores(subject: Subject) -> dict[str, Score]:
    """Judge a subject with the scorers of its config; one that does not apply to it is left
    out."""
    return summaries(subject.config, measure(subject))


def measure(subject: Subject) -> Values:
    """Return every applicable scorer's values; UserError when a value is no number."""
    measured = {
        name: scorers.load(name).score(subject) for name in subject.config.evaluate.scorers
    }
    for name, values in measured.items():
        wrong = sum(not math.isfinite(value) for value in values)
        if wrong:
            raise Diverged(
                f"The scorer {name!r} gave no number for {wrong} of {len(values)} samples: the "
                "model's weights or images hold NaN, so training diverged. Use an earlier "
                "checkpoint or a lower train.learning_rate."
            )
    return {name: values for name, values in measured.items() if values}


def summaries(config: Config, values: Mapping[str, Sequence[float]]) -> dict[str, Score]:
    """Return the mean and interval of every scorer's values."""
    settings = config.evaluate
    return {
        name: summarize(
            each, scorer.BETTER, scorer.LABEL, settings.bootstrap, settings.confidence, config.seed
        )
        for name, each in values.items()
        for scorer in [scorers.load(name)]
    }


def differences(
    config: Config, base: Mapping[str, Sequence[float]], tuned: Mapping[str, Sequence[float]]
) -> dict[str, Difference]:
    """Compare every scorer's values of two models, sample by sample."""
    settings = config.evaluate
    return {
        name: compare(
            base[name],
            tuned[name],
            scorer.BETTER,
            scorer.LABEL,
            settings.bootstrap,
            settings.confidence,
            config.seed,
        )
        for name in base
        if name in tuned
        for scorer in [scorers.load(name)]
    }


def evaluate(
    config: Config, which: str = "latest", tell: Callable[[str], None] = lambda _: None
) -> str:
    """Compare a checkpoint (`latest`, `best` or a folder) with the base model and return the HTML
    report's path.

    `tell` gets lines of progress.
    """
    quiet()
    folder = storage.join(config.output, run_folder.EVALUATION)
    with locked(folder, "Another evaluation is writing", "two would mix their images", ".lock"):
        return _evaluate(config, which, tell)


def _evaluate(config: Config, which: str, tell: Callable[[str], None]) -> str:
    learned = checkpoint.learned(config.output, which, ema=config.export.ema)
    if learned is None:
        raise UserError(
            "Evaluation compares a checkpoint with the base model, so it cannot be `base` itself. "
            "Give latest or best."
        )
    dataset = (
        Dataset.of(config)
        if storage.exists(storage.join(config.dataset, "manifest.json"))
        else None
    )
    asked = prompts(config, dataset, tell)
    tell_cut(config, asked, tell)
    judges = Judges(config)
    known_words = methods.load(config.method).known_words
    texts = [known_words(prompt.text, config.method) for prompt in asked]
    plain = [replace(prompt, text=text) for prompt, text in zip(asked, texts, strict=True)]
    if plain != asked:
        tell(f"The base model is asked in words it knows, such as {texts[0]!r}")
    drawn: dict[str, list[Image.Image]] = {}
    values: dict[str, Values] = {}
    images = f"{len(asked)} image{'' if len(asked) == 1 else 's'}"
    with helpers(config, sample.Drawer) as others:
        for side, weights, wanted in (("base", None, plain), ("tuned", learned, asked)):
            tell(f"Drawing {images} with the {side} model")
            drawn[side], losses = _draw(
                config, weights, wanted, dataset, judges.device, others, tell
            )
            tell(f"Scoring the {side} model: {', '.join(config.evaluate.scorers)}")
            values[side] = measure(Subject(config, drawn[side], texts, judges, losses.copy))
    return _write(config, learned, asked, texts, drawn, values)


def _draw(
    config: Config,
    learned: Learned | None,
    asked: Sequence[Prompt],
    dataset: Dataset | None,
    device: torch.device,
    others: Sequence[Helper],
    tell: Callable[[str], None],
) -> tuple[list[Image.Image], list[float]]:
    """Return one model's images and its held-out losses, then free its memory."""
    model = sample.load_model(config, learned, device)
    pipeline = sample.build_pipeline(config, model, device)
    losses: list[float] = []
    if dataset is not None and "held_out_loss" in config.evaluate.scorers:
        losses = held_out.losses(model, dataset, config.evaluate)
    own = partial(sample.draw, config, model, pipeline)
    folder = learned.folder if learned else "base"
    images = draw_together(asked, config.sample.batch, own, others, folder, tell)
    del model, pipeline, own
    free()
    return images, losses


def _write(
    config: Config,
    learned: Learned,
    asked: Sequence[Prompt],
    base_texts: Sequence[str],
    drawn: Mapping[str, list[Image.Image]],
    values: Mapping[str, Values],
) -> str:
    target = storage.join(config.output, run_folder.EVALUATION)
    storage.remove(target)
    images: list[dict[str, Any]] = []
    for number, prompt in enumerate(asked):
        names = {side: f"{side}/{number:03d}.png" for side in drawn}
        for side, name in names.items():
            save_image(drawn[side][number], storage.join(target, name))
        own = {"prompt": prompt.text, "base_prompt": base_texts[number], "seed": prompt.seed}
        images.append({**own, **names})
    first = asked[:: config.sample.images_per_prompt]
    texts = [prompt.text for prompt in first]
    inputs = {name: [prompt.inputs[name] for prompt in first] for name in first[0].inputs}
    sides = {side: made[:: config.sample.images_per_prompt] for side, made in drawn.items()}
    sheet = grid([*inputs.values(), *sides.values()], [*inputs, *sides], texts)
    save_image(sheet, storage.join(target, "base-vs-tuned.png"))
    compared = differences(config, values["base"], values["tuned"])
    verdict = overfit(read_metrics(config.output), compared)
    content = {
        "checkpoint": storage.base_name(learned.folder),
        "step": learned.state["step"],
        "headline": headline(compared),
        "verdict": verdict.values(),
        **{
            side: {name: score.values() for name, score in summaries(config, values[side]).items()}
            for side in drawn
        },
        "differences": {name: difference.values() for name, difference in compared.items()},
        "not_applicable": [name for name in config.evaluate.scorers if name not in compared],
        "samples": values,
        "images": images,
        "prompts": texts,
        "config": config.values(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    storage.write_json(storage.join(target, run_folder.REPORT), content)
    report = write_report(config)
    storage.write_bytes(storage.join(target, "report.html"), storage.read_bytes(report))
    return report
