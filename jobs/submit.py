"""Send a stage to a Ray cluster: `raytrain submit train config.toml --address
http://127.0.0.1:8265`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jobs import STAGES, ConfigFile, Overrides, execute
from raytrain.startup import leave

HERE = ("submit", "job", "data", "new", "import")
SUBMITTABLE = tuple(stage for stage in STAGES if stage not in HERE)
"""`data` is a group of commands and runs on no worker: any machine that reaches the dataset's
storage can run it."""


def command(
    stage: Annotated[str, typer.Argument(help=f"What to run: {', '.join(SUBMITTABLE)}.")],
    config: ConfigFile,
    set: Overrides = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The cluster's dashboard, http://host:8265; else RAY_ADDRESS.", metavar="URL"
        ),
    ] = None,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Folder to ship; by default a checkout in the current folder, else the installed "
                "packages."
            )
        ),
    ] = None,
    id: Annotated[
        str | None, typer.Option(help="Name of the job on the cluster; by default stage and time.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]",
            help=(
                "Variable for the job (without VALUE: yours). Anyone with the token can read it."
            ),
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Only print the job's id; `raytrain job` follows and stops it later.",
        ),
    ] = False,
    retries: Annotated[
        int,
        typer.Option(
            min=0,
            help="How often a job whose driver was killed is submitted again, to go on.",
        ),
    ] = 0,
) -> int:
    """Run a stage on a cluster; the exit code is the job's own, and Ctrl-C stops the job."""
    from cluster.submit import start, submit
    from raytrain.errors import UserError, unknown

    if stage not in SUBMITTABLE:
        raise unknown("stage", stage, SUBMITTABLE)
    variables = dict(_variable(text) for text in env or ())
    if not detach:
        return submit(
            stage,
            config,
            set or (),
            address=address,
            working_dir=working_dir,
            submission_id=id,
            env=variables,
            retries=retries,
        )
    if retries:
        raise UserError(
            "--retries is for a job that is followed; with --detach nobody would see that it was "
            "killed. Leave one of them out."
        )
    print(
        start(
            stage,
            config,
            set or (),
            address=address,
            working_dir=working_dir,
            submission_id=id,
            env=variables,
        )
    )
    return 0


def _variable(text: str) -> tuple[str, str]:
    from raytrain.errors import UserError

    name, given, value = text.partition("=")
    if not given and name not in os.environ:
        raise UserError(
            f"--env {name} takes its value from your environment, but {name} is not set there. "
            f"Write --env {name}=VALUE."
        )
    return name, value if given else os.environ[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
