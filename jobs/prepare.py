"""Turn a folder of pictures into a dataset: `raytrain prepare config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import ConfigFile, Overrides, connected, run


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Turn a folder of pictures into a dataset; run again, it encodes only what is new or changed."""
    from raytrain.configfile import load

    settings = load(config, set or ())
    with connected(settings):
        from raytrain.data.prepare import prepare

        prepare(settings)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())
