"""From a folder of images to exported weights: `raytrain run config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jobs import REJECTED, ConfigFile, Overrides, execute, read, workers
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Prepare, train and export, each as its own command does;
    what is done already is not done again.

    Exit code 3: broken images were left out of the dataset, and nothing was trained
    (data.allow_rejected = true goes on).
    """
    settings = read(config, set or ())
    from raytrain.data.pipeline import flow, on_machine
    from raytrain.train import local_worker

    needs_ray = flow.needs_ray(settings) or local_worker.needs_ray(settings)
    with workers(settings, needs_ray, on_machine.reserve, local_worker.reserve) as executor:
        from jobs.render import preparation
        from jobs.render.progress import Terminal
        from raytrain.data.prepare import prepare

        show = Terminal()
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
        from raytrain.export.run import export, told
        from raytrain.train.launch import launch

        launch(settings, executor=executor, show=show)
        print(told(local_worker.call(settings, executor.machine, export, settings)))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
