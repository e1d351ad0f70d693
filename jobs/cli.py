"""The `raytrain` command: `raytrain <stage> config.toml [--set a.b=c ...]` is `python -m
jobs.<stage> ...`."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Annotated, NoReturn

import typer

from jobs import STAGES, guard, interruptible
from raytrain import __version__
from raytrain.errors import unknown
from raytrain.startup import leave


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _show_schema(wanted: bool) -> None:
    if wanted:
        from raytrain.config.file import schema

        print(json.dumps(schema(), indent=2))
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            callback=_show_schema,
            is_eager=True,
            help="Print the config's JSON schema.",
        ),
    ] = False,
) -> None:
    """Train and tune diffusion image models on Ray: images in, tuned weights out."""


def main() -> int:
    """Run the stage that the command line names."""
    arguments = sys.argv[1:]
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_root)
    for stage in STAGES:
        module = importlib.import_module(f"jobs.{stage}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=stage)
        else:
            app.command(stage)(interruptible(module.command))
    if arguments and not arguments[0].startswith("-") and arguments[0] not in STAGES:
        print(f"error: {unknown('stage', arguments[0], STAGES)}", file=sys.stderr)
        return 2

    return guard(lambda: app(args=arguments or ["--help"], standalone_mode=False))


def start() -> NoReturn:
    """Be the `raytrain` command."""
    leave(main())


if __name__ == "__main__":
    start()
