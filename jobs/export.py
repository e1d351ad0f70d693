"""Write a checkpoint's weights for other programs: `raytrain export config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from jobs import Checkpoint, ConfigFile, Overrides, compute, execute, read
from raytrain.startup import leave


def command(
    config: ConfigFile, checkpoint: Checkpoint = "latest", set: Overrides = None
) -> int | None:
    """Write a checkpoint's weights in the formats of [export] and say how to load them."""
    settings = read(config, set or ())
    print(compute(settings, "raytrain.export.run:export_and_tell", which=checkpoint))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
