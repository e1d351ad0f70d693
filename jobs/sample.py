"""Make a grid of images from a checkpoint: `raytrain sample config.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import Checkpoint, ConfigFile, Overrides, compute, execute, read
from raytrain.startup import leave


def command(
    config: ConfigFile,
    set: Overrides = None,
    checkpoint: Checkpoint = "latest",
    output: Annotated[
        str | None, typer.Option(help="Folder for the images; default <output>/images.")
    ] = None,
) -> int | None:
    """Make images from a checkpoint, one row a prompt, and their grid."""
    settings = read(config, set or ())
    path = compute(
        settings, "raytrain.sample:sample", print, draws=True, which=checkpoint, output=output
    )
    print(f"wrote {path}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
