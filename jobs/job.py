"""The jobs of a cluster: `raytrain job list | status | logs | stop`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import guard, interruptible
from raytrain.startup import leave

if TYPE_CHECKING:
    from cluster.jobs import Job

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
"""The commands of `raytrain job`."""

Id = Annotated[str, typer.Argument(metavar="ID", help="A job, as `raytrain job list` names it.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="The cluster's dashboard, http://host:8265; else RAY_ADDRESS.", metavar="URL"
    ),
]


@app.callback()
def about() -> None:
    """Look at the jobs that `raytrain submit` sent to a cluster, follow and stop them."""


@app.command("list")
@interruptible
def list_(address: Address = None) -> None:
    """List the jobs of a cluster, the newest first."""
    from rich.console import Console
    from rich.table import Table

    from cluster.jobs import listing

    table = Table("job", "stage", "status", "started", "took", "exit code")
    for job in listing(address):
        table.add_row(job.id, job.stage, job.status, _started(job), _took(job), _code(job))
    Console().print(table)


@app.command("status")
@interruptible
def status(id: Id, address: Address = None) -> None:
    """Say how a job stands, and what the cluster last said of it."""
    from cluster import jobs

    _show(jobs.status(id, address))


@app.command("logs")
@interruptible
def logs(
    id: Id,
    address: Address = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Until it ends; the exit code is the job's own."),
    ] = False,
) -> int:
    """Print a job's log so far; Ctrl-C leaves the job alone."""
    from cluster import jobs

    if follow:
        return jobs.followed(id, address)
    print(jobs.logs(id, address), end="")
    return 0


@app.command("stop")
@interruptible
def stop(id: Id, address: Address = None) -> None:
    """Stop a job in order: it writes a checkpoint, and the same command goes on from there."""
    from cluster import jobs

    _show(jobs.stop(id, address))


def _show(job: Job) -> None:
    words = [job.id, job.stage, job.status, _started(job) and f"started {_started(job)}"]
    words += [_took(job) and f"took {_took(job)}", _code(job) and f"exit code {_code(job)}"]
    print(", ".join(filter(None, words)))
    if job.message:
        print(job.message)


def _started(job: Job) -> str:
    return f"{job.started.astimezone():%Y-%m-%d %H:%M:%S}" if job.started else ""


def _took(job: Job) -> str:
    if not job.started:
        return ""
    seconds = ((job.ended or datetime.now(UTC)) - job.started).total_seconds()
    return f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"


def _code(job: Job) -> str:
    return "" if job.exit_code is None else str(job.exit_code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and return its exit code."""
    return guard(
        lambda: app(args=None if arguments is None else list(arguments), standalone_mode=False)
    )


if __name__ == "__main__":
    leave(main())
