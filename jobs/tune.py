"""Search for the best settings: `raytrain tune config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import ConfigFile, Overrides, connected, execute, read
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Try the settings of [tune.space] in many short runs; the same command continues after an
    interruption."""
    from tuning.leaderboard import show, winner
    from tuning.space import notes
    from tuning.study import folder, url
    from tuning.sweep import check, export_winner, sweep

    settings = read(config, set or ())
    check(settings)
    for told in notes(settings):
        print(f"note: {told}", file=sys.stderr)
    print(f"Watch it with: optuna-dashboard {url(settings)}")
    with connected(settings):
        found = sweep(settings)
        show(settings, found)
    best = winner(found)
    if best is None:
        print("error: no trial completed; the reasons are above.", file=sys.stderr)
        return 1
    print(
        f"The best settings, ready to train with: {folder(settings)}/winner.toml. The best "
        "trial's weights:"
    )
    for path in export_winner(settings, best):
        print(f"    {path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
