"""What is wrong with `[tune]` and can be known in a second, on any machine."""

from __future__ import annotations

from raytrain.config import Config
from tuning import objective, space


def check(config: Config) -> None:
    """Raise UserError for an objective that nothing measures, a range without a valid config, or a
    database that could not be opened from here."""
    objective.check(config.tune.objective, config.evaluate.scorers, config.data.held_out)
    space.check(config)
    if config.tune.storage:
        from tuning import database  # SQLAlchemy, which only a database needs

        database.check(config.tune.storage)
