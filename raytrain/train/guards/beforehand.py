"""What a run would meet late, told before its first step: metrics that nothing measures, images
that cannot be drawn, folders that cannot be written to, judges that are not there."""

from __future__ import annotations

from raytrain import aesthetic, clip, methods, storage
from raytrain.checkpoint import FOLDER
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.store.schema import MANIFEST
from raytrain.errors import UserError, nearest
from raytrain.sampling.prompts import prompts

EVERY_STEP = ("loss", "gradient_norm", "learning_rate", "epoch")
"""Metrics of every step."""


def check(config: Config) -> None:
    """Raise UserError for a mistake that training itself would meet only later."""
    _check_best_by(config)
    _check_folders(config)
    if config.train.score_every.number:
        check_judges(config)
    made = storage.exists(storage.join(config.dataset, MANIFEST))
    own = config.sample.prompts or config.sample.prompt_file
    if made or own or "control" not in methods.load(config.method).INPUTS:
        prompts(config, Dataset.of(config) if made else None)


def check_judges(config: Config) -> None:
    """Raise UserError where the model of a scorer is not there; a hub id is not looked up."""
    scorers = config.evaluate.scorers
    if "aesthetic" in scorers:
        aesthetic.check(config.evaluate.aesthetic)
    if any(name.startswith(("clip_", "diversity")) for name in scorers):
        clip.check(config.evaluate.clip)


def _check_folders(config: Config) -> None:
    """Raise UserError where a local folder that a stage writes to cannot be made."""
    output = config.output
    for what, key, uri in (
        ("output", "output", output),
        ("the dataset's folder", "data.dataset", config.dataset),
        ("the checkpoints' folder", "output", storage.join(output, FOLDER)),
        ("the export's folder", "output", storage.join(output, "export")),
    ):
        storage.check_writable(what, key, uri)


def _check_best_by(config: Config) -> None:
    scorers = [name.split(".")[-1] for name in config.evaluate.scorers]
    known = (*EVERY_STEP, *dict.fromkeys(("held_out_loss", *scorers)))
    for name in config.train.best_by:
        if name not in known:
            guess = nearest(name, known)
            hint = f"Did you mean {guess!r}?" if guess else f"Add {name!r} to evaluate.scorers."
            raise UserError(
                f"train.best_by weighs {name!r}, which nothing measures: the best checkpoint "
                f"would be the last. {hint} Measured: {', '.join(known)}."
            )
        if name in scorers and name != "held_out_loss" and not config.train.score_every.number:
            raise UserError(
                f"train.best_by weighs {name!r}, but train.score_every = 0 measures it never: the "
                "best checkpoint would be the last. Set train.score_every."
            )
