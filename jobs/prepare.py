"""Turn a folder of images into a dataset: `raytrain prepare config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from jobs import REJECTED, ConfigFile, Overrides, execute, read, workers
from raytrain.startup import leave


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Turn a folder of images into a dataset; run again, it encodes only what is new or changed.

    Exit code 3: done, but broken images were left out (data.allow_rejected = true makes that 0).
    """
    settings = read(config, set or ())
    from raytrain.data.pipeline import flow, on_machine

    with workers(settings, flow.needs_ray(settings), on_machine.reserve) as executor:
        from jobs.render import preparation
        from jobs.render.progress import Terminal
        from raytrain.data.prepare import prepare

        report = prepare(settings, executor, Terminal())
        preparation.show(report)
    return REJECTED if report.broken and not settings.data.allow_rejected else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
