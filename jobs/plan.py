"""Check everything and print what would run, in seconds: `raytrain plan config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from jobs import ConfigFile, Overrides, execute
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Check config, model folder and dataset, and print what would run; nothing is held or written."""
    from raytrain.configfile import load

    settings = load(config, set or ())
    from raytrain.plan import plan, show

    show(plan(settings))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
