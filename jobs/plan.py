"""Check everything and print what would run, in seconds: `raytrain plan config.toml`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs import ConfigFile, Overrides, execute, read, workers
from raytrain.startup import leave

if TYPE_CHECKING:
    from raytrain.planned import Plan


def command(config: ConfigFile, set: Overrides = None) -> int | None:
    """Check config, model folder and dataset, and print what would run;
    nothing is held or written."""
    settings = read(config, set or ())
    with workers(settings, needs_ray=False) as executor:
        made = executor.call("raytrain.plan:plan", config=settings)
    if settings.tune.space:
        from tuning import check, space

        check.check(settings)
        for told in space.notes(settings):
            print(f"note: {told}", file=sys.stderr)
    show(made)
    return 0


def show(plan: Plan) -> None:
    """Print a plan."""
    from rich.console import Console
    from rich.table import Table

    from raytrain.data.pipeline.room import FACTOR

    console, train, model = Console(), plan.config.train, plan.config.model
    console.print(f"[bold]dataset[/]   {plan.dataset}")
    if plan.note:
        console.print(f"note: {plan.note}", style="yellow", markup=False)
    if plan.stored:
        sizes = ", ".join(f"{name} {_size(count)}" for name, count in plan.stored.items())
        console.print(
            f"[bold]disk[/]      preparing writes about {_size(sum(plan.stored.values()))} "
            f"({sizes}), give or take {FACTOR:g}x"
        )
    if plan.buckets:
        table = Table("bucket", "train", "held out", "batches an epoch")
        for name, count in sorted(plan.buckets.items()):
            batches = count.entries * plan.config.data.repeats / train.global_batch
            table.add_row(name, str(count.train), str(count.held_out), f"{batches:.1f}")
        console.print(table)
    console.print(
        f"[bold]model[/]     {model.family} {model.path}, {_short(plan.parameters)} weights, "
        f"{_short(plan.trainable_parameters)} learn ({plan.config.method.name})"
    )
    console.print(
        f"[bold]step[/]      an image takes {_short(plan.row.flops)} operations and keeps "
        f"{plan.row.activations / 2**20:.0f} MiB for the backward pass"
    )
    length = (
        "known after prepare"
        if plan.steps is None
        else f"{plan.steps} steps, {plan.epochs:.1f} epochs"
    )
    console.print(
        f"[bold]run[/]       {length}; global batch {train.global_batch} = {train.workers} "
        f"workers x {plan.micro_batch} x {plan.accumulation} steps; {train.precision}"
    )
    if plan.resumes_from:
        console.print(f"[bold]resumes[/]   from step {plan.resumes_from}")
    console.print(f"[bold]engine[/]    {plan.engine}")
    if plan.encoders.bytes:
        console.print(
            f"[bold]encoders[/]  {_size(plan.encoders.weights)} of them stay in a worker "
            f"(data.cache = false), {_size(plan.encoders.work)} while they encode"
        )
    if plan.seconds is not None:
        where = "GPU" if train.gpus_per_worker else "CPU"
        console.print(
            f"[bold]time[/]      about {_duration(plan.seconds)} of training on this {where}, "
            "give or take 3x"
        )
    console.print(f"[bold]output[/]    {plan.config.output}")


def _short(count: int) -> str:
    """Write a number to three digits.

    >>> _short(256), _short(859_520_964), _short(5_970_000_000_000)
    ('256', '860 M', '5.97 T')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return execute(command, arguments)


if __name__ == "__main__":
    leave(main())
