"""Train on a prepared dataset: `raytrain train config.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import ConfigFile, Overrides, execute, read, workers
from raytrain.startup import leave

Resume = Annotated[
    str, typer.Option(help="Where to continue from: latest, best or a checkpoint's folder.")
]

Profile = Annotated[
    bool,
    typer.Option(
        "--profile",
        help="Record 5 steps into <output>/profile; other counts: --set train.profile=N.",
    ),
]


def command(
    config: ConfigFile, set: Overrides = None, resume: Resume = "latest", profile: Profile = False
) -> int | None:
    """Train on a prepared dataset; the same command continues after an interruption."""
    settings = read(config, [*(["train.profile=5"] if profile else []), *(set or ())])
    from raytrain.train import local_worker

    with workers(settings, local_worker.needs_ray(settings), local_worker.reserve) as executor:
        from jobs.render.progress import Terminal
        from raytrain.train.launch import launch

        launch(settings, resume=resume, executor=executor, show=Terminal())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
