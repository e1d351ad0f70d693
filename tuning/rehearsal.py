"""Rehearse a config, the objective of its sweep too where it has one."""

from __future__ import annotations

from functools import partial

from raytrain.config import Config
from raytrain.data.pipeline.executor import Executor
from raytrain.rehearsal.run import rehearse
from raytrain.show import Show
from tuning import objective


def through(config: Config, executor: Executor, show: Show) -> None:
    """Let a few images go through every phase; UserError for a mistake, also in `[tune]`."""
    if not config.tune.space:
        rehearse(config, executor, show)
        return
    from tuning import check  # Optuna's imports, which only a sweep needs

    check.check(config)
    measured = partial(objective.check_measured, weights=config.tune.objective)
    rehearse(config, executor, show, measured)
