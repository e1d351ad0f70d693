"""What is wrong with `[tune]` and can be known in a second, on any machine."""

from __future__ import annotations

from raytrain.config import Config
from raytrain.config.data import GROWING, LATEST
from raytrain.errors import UserError
from tuning import objective, space


def check(config: Config) -> None:
    """Raise UserError for a dataset that grows, an objective that nothing measures, a range
    without a valid config, or a database that could not be opened from here."""
    if config.data.snapshot == GROWING:
        raise UserError(
            f'A sweep needs a dataset that is whole: with data.snapshot = "{GROWING}" its trials '
            "would see different images, and their scores could not be compared. Set it to "
            f'"{LATEST}" once `raytrain prepare` has ended.'
        )
    objective.check(config.tune.objective, config.evaluate.scorers, config.data.held_out)
    space.check(config)
    if config.tune.storage:
        from tuning import database  # SQLAlchemy, which only a database needs

        database.check(config.tune.storage)
