"""What a run would meet late, told before its first step: metrics that nothing measures, images
that cannot be drawn."""

from __future__ import annotations

from raytrain import storage
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
    made = storage.exists(storage.join(config.dataset, MANIFEST))
    prompts(config, Dataset.of(config) if made else None)


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
