"""Jobs: started by a user or by `ray job submit`.

Each is thin: parse, validate, connect, call, exit code.

    python -m jobs.train config.toml --set train.steps=100
    raytrain train config.toml --set train.steps=100

A job module defines `command`, a typer function whose docstring is its help (or `app`, a group of
such commands), and `main(arguments) -> int`; it defines nothing that is sent to workers (functions
of `__main__` travel by value).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from raytrain.errors import UserError

if TYPE_CHECKING:
    from raytrain.config import Config
    from raytrain.data.pipeline.executor import Executor
    from raytrain.local import Machine

STAGES = (
    "run",
    "rehearse",
    "prepare",
    "train",
    "sample",
    "evaluate",
    "tune",
    "export",
    "plan",
    "data",
    "submit",
    "job",
    "quickstart",
    "new",
    "import",
)

REJECTED = 3
"""Exit code: the dataset is ready, but broken images are not in it."""

ConfigFile = Annotated[
    Path, typer.Argument(metavar="config.toml", help="TOML file with the settings of all stages.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, or take it away (KEY=); may be repeated.",
    ),
]
Checkpoint = Annotated[
    str, typer.Option(help="Which checkpoint: latest, best, base or a checkpoint's folder.")
]


def execute(command: Callable[..., int | None], arguments: Sequence[str] | None) -> int:
    """Run one job's typer function on command line arguments (None: the process's own)
    and return the exit code.

    0 or what the function returns; 2 for a user's mistake (its message on stderr, no traceback);
    130 for Ctrl-C. Any other exception travels on with its traceback, so that a failed job fails.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(interruptible(command))
    return guard(
        lambda: app(args=None if arguments is None else list(arguments), standalone_mode=False)
    )


def interruptible(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Make Ctrl-C one message and exit code 130; typer would end in silence."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> int | None:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            print(
                "Interrupted. What was finished is kept; the same command continues from there.",
                file=sys.stderr,
            )
            return 130

    return wrapped


def guard(body: Callable[[], int | None]) -> int:
    """Call `body` and turn a user's mistake into one message and an exit code."""
    from cluster.errors import ClusterError
    from raytrain.startup import before_imports

    before_imports()
    try:
        return body() or 0
    except (UserError, ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TyperException as error:
        error.show()  # type: ignore[attr-defined]  # typer's usage errors all have it
        return int(error.exit_code)


def read(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the checked config of a file; a line tells of each key that has no effect."""
    from raytrain.config.file import load
    from raytrain.config.unread import unread

    try:
        config = load(path, overrides)
    except UserError as error:
        raise UserError(f"{error}{_hint(path)}") from None
    for source in (subset.source for subset in config.data.all_subsets()):
        if source.endswith(_LISTS) and (hint := _hint(Path(source))):
            raise UserError(f"data.source must hold images, and {source!r} holds none.{hint}")
    for told in unread(config):
        print(f"note: {told}", file=sys.stderr)
    return config


_LISTS = (".json", ".yaml", ".yml")
_LONGEST = 2**20
"""Bytes; a longer file is a list of images, not a configuration."""


def _hint(path: Path) -> str:
    """Say how another trainer's configuration is used; empty where a file is none."""
    from raytrain.translate import read_files, recognized

    if not path.is_file() or path.stat().st_size > _LONGEST:
        return ""
    try:
        trainers = recognized(read_files([path]))
    except UserError:
        return ""
    if not trainers:
        return ""
    return (
        f"\n{path} is a configuration of {' or '.join(trainers)}: `raytrain import {path}` makes "
        "a config of it."
    )


@contextmanager
def connected(config: Config) -> Iterator[Any]:
    """Connect to the Ray of `[cluster]`, or start a private one, for the length of a `with` block.

    Raises UserError where a folder to write to is another one on each node of a cluster.
    """
    from cluster.connect import connect

    cluster = config.cluster
    with connect(
        cluster.address,
        num_cpus=cluster.num_cpus,
        object_store_mb=cluster.object_store_mb,
        log_to_driver=config.log.worker_output,
    ) as connection:
        if not connection.private:
            from raytrain.data.pipeline.on_ray import check_shared

            check_shared({"output": config.output, "data.dataset": config.dataset})
        yield connection


def compute(
    config: Config,
    function: str,
    tell: Callable[[str], None] | None = None,
    *,
    draws: bool = False,
    **settings: Any,
) -> Any:
    """Call the function of a name on a worker of the Ray that is joined, else in this process;
    one that draws may have several workers draw."""
    from raytrain.data.pipeline.executor import Need

    cpus, gpus = config.train.cpus_per_worker, config.train.gpus_per_worker
    keys = "train.cpus_per_worker, gpus_per_worker"
    if draws and config.sample.gpus_per_worker is not None:
        gpus, keys = config.drawing_gpus, "train.cpus_per_worker, sample.gpus_per_worker"
    # Only one is waited for: the others draw when they come.
    need = Need("This command", cpus, gpus, 1, keys)
    with workers(config, needs_ray=draws and config.sample.workers > 1) as executor:
        executor.await_room(need, config.cluster.wait_minutes, print)
        return executor.compute(function, cpus, gpus, tell, config=config, **settings)


@contextmanager
def workers(
    config: Config,
    needs_ray: bool,
    *reserve: Callable[[Config, Machine], None],
    beside: bool = False,
) -> Iterator[Executor]:
    """Yield an executor for the length of a `with` block: of Ray, or, where this machine is
    enough, of processes that `reserve` starts; with `beside` Ray starts next to them, for what
    they are not enough for."""
    from cluster.connect import choose
    from raytrain.data.pipeline import executor

    if needs_ray or choose(config.cluster.address, os.environ) is not None:
        with connected(config):
            yield executor.on_ray()
        return
    from raytrain.data.pipeline.on_machine import OnMachine
    from raytrain.local import Machine

    with Machine(shown=config.log.worker_output) as machine:
        for start in reserve:
            start(config, machine)
        with connected(config) if beside else nullcontext():
            yield OnMachine(machine)
