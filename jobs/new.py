"""A config to begin with: `raytrain new my.toml --family sdxl --for style`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jobs import execute
from raytrain.startup import leave


def command(
    config: Annotated[
        Path, typer.Argument(metavar="my.toml", help="The config to write; it must not exist.")
    ],
    family: Annotated[str, typer.Option(help="The family of the base model, such as sdxl.")],
    purpose: Annotated[
        str, typer.Option("--for", help="style, face, object, control or finetune.")
    ],
    source: Annotated[str, typer.Option(help="data.source: a folder of images.")] = "",
    model: Annotated[str, typer.Option(help="model.path: a folder or hub id.")] = "",
) -> int | None:
    """Write a commented config for a family of models and what it is to learn."""
    from raytrain import starter

    start = starter.Start(family, purpose, source, model)
    starter.write(config, start)
    if start.open:
        print(f"Fill in {' and '.join(start.open)} in {config}; the rest is a beginning.")
    print(f"Written to {config}. Check it: raytrain plan {config}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
