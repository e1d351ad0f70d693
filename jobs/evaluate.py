"""Compare a trained model with its base model: `raytrain evaluate config.toml`."""

from __future__ import annotations

from collections.abc import Sequence

from jobs import Checkpoint, ConfigFile, Overrides, compute, execute, read
from raytrain.startup import leave


def command(
    config: ConfigFile, set: Overrides = None, checkpoint: Checkpoint = "latest"
) -> int | None:
    """Score a checkpoint against the base model and write report.html and
    evaluation/report.json."""
    from rich.console import Console

    settings = read(config, set or ())
    from jobs.render import evaluation

    console = Console()
    report = compute(
        settings, "raytrain.evaluate.run:evaluate", console.print, draws=True, which=checkpoint
    )
    console.print(evaluation.show(settings.output))
    console.print(f"Report: {report}", soft_wrap=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
