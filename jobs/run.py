"""From a folder of images to exported weights: `raytrain run config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import REJECTED, ConfigFile, Overrides, execute, read, workers
from raytrain.startup import leave

if TYPE_CHECKING:
    from raytrain.config import Config
    from raytrain.data.pipeline.executor import Executor
    from raytrain.show import Show


Rehearse = Annotated[
    bool, typer.Option(help="First let one image of each bucket go through every phase.")
]


def command(config: ConfigFile, set: Overrides = None, rehearse: Rehearse = True) -> int | None:
    """Prepare, train and export, each as its own command does;
    what is done already is not done again. A long job is rehearsed first.

    Exit code 3: broken images were left out of the dataset, and nothing was trained
    (data.allow_rejected = true goes on).
    """
    settings = read(config, set or ())
    from raytrain.data.pipeline import flow, on_machine
    from raytrain.train import local_worker

    with workers(
        settings,
        flow.needs_ray(settings),
        on_machine.reserve,
        local_worker.reserve,
        beside=local_worker.needs_ray(settings),
    ) as executor:
        from jobs.render import preparation
        from jobs.render.progress import Terminal
        from raytrain.data.prepare import prepare

        show = Terminal()
        _rehearse(settings, executor, show, rehearse)
        report = prepare(settings, executor, show)
        preparation.show(report)
        if report.broken and not settings.data.allow_rejected:
            print(
                "Stopped before training: broken images, listed above, were left out. Mend or "
                "remove them, or train without them (data.allow_rejected = true), and run the "
                "same command again.",
                file=sys.stderr,
            )
            return REJECTED
        from raytrain.train.launch import launch

        launch(settings, executor=executor, show=show)
        export = "raytrain.export.run:export_and_tell"
        print(local_worker.call(settings, executor, export, config=settings))
    return 0


def _rehearse(settings: Config, executor: Executor, show: Show, wanted: bool) -> None:
    """Rehearse where it is worth it, or check what is known and say why not more."""
    from raytrain.rehearsal.settings import needless
    from tuning.rehearsal import through

    why = needless(settings) if wanted else "--no-rehearse"
    if not why:
        through(settings, executor, show)
        return
    executor.call("raytrain.train.guards.beforehand:check", config=settings)
    show.tell(f"Not rehearsed: {why}. `raytrain rehearse` does it in any case.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
