"""Search for the best settings: `raytrain tune config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import ConfigFile, Overrides, execute, read, workers
from raytrain import storage
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Try the settings of [tune.space] in many short runs; the same command continues after an
    interruption."""
    from tuning.home import folder
    from tuning.leaderboard import show, winner
    from tuning.space import notes
    from tuning.sweep import check, sweep

    settings = read(config, set or ())
    check(settings)
    for told in notes(settings):
        print(f"note: {told}", file=sys.stderr)
    with workers(settings, needs_ray=True) as executor:
        found = sweep(settings)
        show(settings, found)
        best = winner(found)
        if best is None:
            print("error: no trial completed; the reasons are above.", file=sys.stderr)
            return 1
        won = storage.join(folder(settings), "winner.toml")
        print(f"The best settings, ready to train with: {won}. The best trial's weights:")
        needs = settings.train.cpus_per_worker, settings.train.gpus_per_worker
        export = "tuning.sweep:export_winner"
        for path in executor.compute(export, *needs, config=settings, best=best):
            print(f"    {path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
