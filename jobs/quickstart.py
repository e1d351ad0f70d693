"""The whole path on the toy world, on this machine, without a model hub: `raytrain quickstart`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from jobs import connected, execute
from raytrain.startup import leave


def command(
    output: Annotated[
        str, typer.Option(help="Folder for everything the quickstart makes.")
    ] = "runs/quickstart",
    images: Annotated[int, typer.Option(help="Images to draw.", min=20)] = 160,
) -> int | None:
    """Images in; a tuned, evaluated, exported LoRA and a report out,
    in minutes on two CPU cores."""
    from pathlib import Path

    from raytrain.config.file import load
    from raytrain.toy.draw import draw_folder
    from raytrain.toy.start import write_config

    config_path = write_config(output)
    settings = load(config_path)
    if not Path(settings.data.source).is_dir():
        draw_folder(settings.data.source, images, style="neon", seed=settings.seed)
    _say(
        1, f"drew {images} neon images with captions in {settings.data.source}; now preparing them"
    )
    with connected(settings):
        from jobs.render import preparation
        from jobs.render.progress import Terminal
        from raytrain.data.prepare import prepare
        from raytrain.evaluate.run import evaluate
        from raytrain.export.run import export, told
        from raytrain.train.launch import launch
        from tuning.sweep import sweep

        preparation.show(prepare(settings, show=Terminal()))
        _say(2, "training a LoRA")
        launch(settings, show=Terminal())
        _say(3, "evaluating it against the base")
        evaluate(settings)
        _say(4, f"searching {settings.tune.trials} settings, stopping hopeless ones early")
        sweep(settings)
        _say(5, "exporting")
        print(told(export(settings)))
    from raytrain.evaluate.report import write_report

    print(f"\nDone. Open {write_report(settings)}; the config is {config_path}.")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


def _say(number: int, text: str) -> None:
    print(f"\n[{number}/5] {text}", flush=True)


if __name__ == "__main__":
    leave(main())
