"""Browse a dataset, clean it up, publish it: `raytrain data ls config.toml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import REJECTED, Overrides, guard, interruptible
from raytrain import plugins
from raytrain.startup import leave

if TYPE_CHECKING:
    from raytrain.config import Config

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
"""The commands of `raytrain data`."""

Where = Annotated[
    str,
    typer.Argument(
        metavar="DATASET", help="A dataset's folder or URI, or the config (.toml) that names it."
    ),
]
Snapshot = Annotated[
    str, typer.Argument(metavar="[SNAPSHOT]", help="A snapshot's number, or latest.")
]


@app.callback()
def about() -> None:
    """Browse a dataset, compare its snapshots, free space, publish it."""


@app.command("ls")
@interruptible
def ls(where: Where, set: Overrides = None) -> None:
    """List the snapshots of a dataset; the newest is marked."""
    from rich.console import Console

    from jobs.render import dataset

    Console().print(dataset.snapshots(_dataset(where, set)))


@app.command("show")
@interruptible
def show(
    where: Where,
    snapshot: Snapshot = "latest",
    row: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|ID", help="All of one image: its path, or the first digits of its id."
        ),
    ] = None,
    set: Overrides = None,
) -> None:
    """Show what a snapshot holds and what it left out, or all that is known of one row."""
    from rich.console import Console

    from jobs.render import dataset
    from raytrain.data.tools import browse

    folder = _dataset(where, set)
    manifest = browse.open_snapshot(folder, snapshot)
    if row is None:
        Console().print(dataset.overview(folder, manifest))
        return
    for found in browse.find_rows(folder, manifest, row):
        Console().print(dataset.everything(found, manifest))


@app.command("diff")
@interruptible
def diff(
    where: Where,
    old: Annotated[str, typer.Argument(metavar="A", help="A snapshot's number.")],
    new: Annotated[
        str, typer.Argument(metavar="[B]", help="Another snapshot, by default the newest.")
    ] = "latest",
    first: Annotated[int, typer.Option(help="How many rows of each kind are named.", min=0)] = 10,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    set: Overrides = None,
) -> None:
    """Say which rows were added, removed or changed between two snapshots,
    and which settings differ."""
    from rich.console import Console

    from jobs.render import difference
    from raytrain.data.tools import compare

    found = compare.difference(_dataset(where, set), old, new, first)
    if json:
        print(found.model_dump_json(indent=2))
    else:
        Console().print(difference.show(found))


@app.command("gc")
@interruptible
def gc(
    where: Where,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Drop all snapshots but that many newest; by default all are kept.", min=1
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(
            metavar="HOURS",
            help="Delete no younger file: preparations may have just written it.",
            min=0,
        ),
    ] = 24.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be deleted.")
    ] = False,
    set: Overrides = None,
) -> None:
    """Delete what no snapshot needs.

    Safe while a dataset is prepared or trained on; captions and scores are never lost.
    """
    from rich.console import Console

    from jobs.render import freed
    from raytrain.data.tools import collect

    found = collect.collect(_dataset(where, set), keep, older_than, dry_run)
    Console().print(freed.show(found))


@app.command("preview")
@interruptible
def preview(
    where: Where,
    snapshot: Snapshot = "latest",
    per_bucket: Annotated[
        int, typer.Option(help="Training rows shown of each bucket.", min=1)
    ] = 12,
    output: Annotated[
        str, typer.Option(help="The page; default preview.html in the dataset's folder.")
    ] = "",
    set: Overrides = None,
) -> None:
    """Write one HTML page with images of every bucket as they were cut, their captions,
    masks and versions."""
    from raytrain.data.tools import gallery

    seed = _config(where, set).seed if where.endswith(".toml") else 0
    print(
        f"Open {gallery.write_gallery(_dataset(where, set), snapshot, output, per_bucket, seed)}"
    )


@app.command("audit")
@interruptible
def audit(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's folder, or its config (.toml).")
    ],
    set: Overrides = None,
) -> int:
    """Compute again what a run was shown, and check what was promised;
    exit code 1 where a promise is broken."""
    from rich.console import Console

    from jobs.render import audit as table
    from raytrain.train.record import audit

    found = audit.audit(audit.config_of(run, tuple(set or ())))
    Console().print(table.show(found))
    return 1 if found.broken else 0


@app.command("convert")
@interruptible
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Images as data.source has them; or a dataset's folder, or the config that names "
            "it, whose captions are those it is trained with.",
        ),
    ],
    output: Annotated[
        str, typer.Argument(metavar="[OUTPUT]", help="A folder; by default next to the images.")
    ] = "",
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help=f"{', '.join(plugins.names('data.formats'))}.")
    ] = "",
    copy: Annotated[bool, typer.Option("--copy", help="Copy the images into OUTPUT too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    first: Annotated[
        bool, typer.Option("--first", help="Take the first of an image's captions.")
    ] = False,
    snapshot: Annotated[
        str, typer.Option(help="Of a dataset: a snapshot's number, or latest.")
    ] = "latest",
) -> int:
    """Write captions, and what else belongs to images, in another format;
    exit code 3 where images were left out."""
    from jobs.render import converted
    from raytrain.data.tools import convert

    done = convert.convert(
        source, to, output, copy=copy, overwrite=overwrite, first=first, which=snapshot
    )
    converted.show(done, to)
    return REJECTED if done.rejected else 0


@app.command("publish")
@interruptible
def publish(
    where: Where,
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="A new folder, or one that this command created, to continue."
        ),
    ],
    snapshot: Snapshot = "latest",
    format: Annotated[
        str, typer.Option(help="imagefolder, or parquet with the images inside.")
    ] = "imagefolder",
    push: Annotated[
        str,
        typer.Option(
            metavar="REPO", help="Send the folder to <user>/<name> on the hub, as its token lets."
        ),
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="With --push: a new repository is private.")
    ] = False,
    set: Overrides = None,
) -> None:
    """Write the source images and their captions as a folder for the `datasets` library and the
    hub, and send it there."""
    from raytrain.data.tools import publish
    from raytrain.data.tools import push as hub
    from raytrain.errors import UserError, unknown

    if format not in publish.FORMATS:
        raise unknown("format", format, publish.FORMATS)
    if private and not push:
        raise UserError("--private is for --push, which sends the folder; give both or neither.")
    if push:
        hub.check(push, folder)
    done = publish.publish(_dataset(where, set), folder, snapshot, format)
    for split, count in done.images.items():
        print(f"{count:,} images in {split}")
    print(f"Published to {done.folder}; {done.kept:,} were there already.")
    if push:
        print(f"Sent to {hub.push(done, push, private=private)}")
    else:
        print(f"To send it to the hub, add --push, or: {publish.upload_command(done)}")


@app.command("scrape")
@interruptible
def scrape(
    url: Annotated[str, typer.Argument(metavar="URL", help="A page that gallery-dl knows.")],
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where its images go.")],
) -> None:
    """Have gallery-dl download the images of a page, with what is known of each."""
    from raytrain.data.tools import scrape

    count = scrape.scrape(url, folder)
    print(f"{count:,} images in {folder}. To prepare them:")
    print(f'    [data]\n    source = "{folder}"\n    format = "gallery_dl"')


def _dataset(where: str, overrides: Sequence[str] | None) -> str:
    """Return the folder of the dataset that is meant: that of a config where a TOML file is
    given."""
    return _config(where, overrides).dataset if where.endswith(".toml") or overrides else where


def _config(where: str, overrides: Sequence[str] | None) -> Config:
    from raytrain.config.file import load
    from raytrain.errors import UserError

    if not where.endswith(".toml"):
        raise UserError(
            f"--set changes a config, but {where!r} is a folder. Give the config file, or no "
            "--set."
        )
    return load(where, overrides or ())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands and return its exit code."""
    return guard(
        lambda: app(args=None if arguments is None else list(arguments), standalone_mode=False)
    )


if __name__ == "__main__":
    leave(main())
