"""Another trainer's configuration as a config of ours: `raytrain import train.sh data.toml`."""  # noqa: N999

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from jobs import execute
from raytrain.startup import leave


def command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="All files of the configuration: a command line, and what it names.",
        ),
    ],
    trainer: Annotated[
        str, typer.Option("--from", help="Whose it is; by default the files tell.")
    ] = "",
    output: Annotated[
        Path, typer.Option(metavar="my.toml", help="The config to write; it must not exist.")
    ] = Path("my.toml"),
    family: Annotated[str, typer.Option(help="model.family, where the files do not tell.")] = "",
) -> int | None:
    """Translate the configuration of kohya's sd-scripts, sd-lora-trainer, sd-trainer, SimpleTuner,
    ai-toolkit or diffusers' scripts, and say of every key what became of it."""
    from jobs.render import imported
    from raytrain.translate import read_files, translate, write

    made = translate(read_files(files), trainer, {"model.family": family} if family else {})
    write(made, ", ".join(map(str, files)), output)
    print(imported.show(made))
    if made.fault:
        print(f"{output} is not whole yet: {made.fault}")
    print(f"Written to {output}. Check it: raytrain plan {output}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
