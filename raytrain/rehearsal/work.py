"""What of a rehearsal is done on a worker."""

from __future__ import annotations

from raytrain import local
from raytrain.config import Config
from raytrain.data.pipeline import room
from raytrain.export import run
from raytrain.peak import Peak, peak
from raytrain.train.guards import beforehand


def check(config: Config, scored: bool) -> None:
    """Raise UserError for what is known without running anything."""
    beforehand.check(config)
    room.check_estimate(config)
    if scored:
        beforehand.check_judges(config)


def export(config: Config) -> Peak:
    """Export the last checkpoint, and free this process's memory; returns what it held."""
    run.export(config)
    held = peak()
    local.free()
    return held
