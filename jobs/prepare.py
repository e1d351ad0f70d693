"""Turn a folder of pictures into a dataset: `raytrain prepare config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import ConfigFile, Overrides, connected, run

REJECTED = 3
"""Exit code: the dataset is ready, but broken pictures are not in it."""


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Turn a folder of pictures into a dataset; run again, it encodes only what is new or changed.

    Exit code 3: done, but broken pictures were left out (data.allow_rejected = true makes that 0).
    """
    from raytrain.configfile import load

    settings = load(config, set or ())
    with connected(settings):
        from raytrain.data.prepare import prepare

        report = prepare(settings)
    return REJECTED if report.broken and not settings.data.allow_rejected else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
