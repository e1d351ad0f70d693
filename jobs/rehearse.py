"""Let one image of each bucket go through every phase: `raytrain rehearse config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from jobs import ConfigFile, Overrides, execute, workers
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Caption, encode, train, save, resume, sample, score and export one image of each bucket,
    with the memory of each; nothing of it is kept."""
    from raytrain.config.file import load

    settings = load(config, set or ())
    from raytrain.data.pipeline import flow, on_machine
    from raytrain.train import local_worker

    with workers(
        settings,
        flow.needs_ray(settings),
        on_machine.reserve,
        beside=local_worker.needs_ray(settings),
    ) as executor:
        from jobs.render.progress import Terminal
        from tuning.rehearsal import through

        through(settings, executor, Terminal())
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
