"""Free what no kept snapshot needs, while preparations may be running.

Killed at any moment, every kept snapshot stays whole. Deleted are shards, rows and lists of
rejected images that no snapshot names, and the working files of preparations that were killed;
never a file younger than `older_than` hours, since a running preparation may have written it. The
catalog and the annotations lose nothing: many small parts of them are merged into one large part.
See `leaving` for the order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from pydantic import Field, ValidationError

from raytrain import plugins, storage
from raytrain.data.store import leaving, schema, snapshot, tables
from raytrain.data.store.schema import Manifest
from raytrain.data.tools.browse import open_snapshot
from raytrain.errors import UserError
from raytrain.storage import File
from raytrain.table import Table

HOURS = 24.0
"""Files younger than this are never deleted: longer than the longest preparation."""
PARTS = 64
"""A table of more parts than this is merged."""
DELETERS = 16
_TABLES = {"catalog": tables.SCANS, "annotations": tables.ANNOTATIONS}
_UNFINISHED = re.compile(r"\.(tmp|new)(-[0-9a-f]{8})?(\.tmp-[0-9a-f]{8})?$")
"""What writers that were killed leave behind."""


class Freed(Table):
    """What a clean-up deleted, or would delete."""

    dry_run: bool
    snapshots: Annotated[tuple[int, ...], Field(strict=False)]
    files: dict[str, int]
    """Kind -> files deleted."""
    bytes: int
    merged: dict[str, int]
    """Table -> parts that one part now stands for; they are deleted by a later clean-up."""
    young: int
    """Files that no snapshot names, but too young to be deleted."""


def collect(
    dataset: str, keep: int | None = None, older_than: float = HOURS, dry_run: bool = False
) -> Freed:
    """Delete what no snapshot needs; with `keep`, first drop all snapshots but that many newest
    and the dataset's own.

    Raises UserError, with nothing deleted, where a snapshot cannot be read.
    """
    newest = open_snapshot(dataset)
    before = time.time() - 3600 * older_than
    numbers = snapshot.snapshot_numbers(dataset)
    dropped = [n for n in numbers[:-keep] if n != newest.number] if keep else []
    _named(dataset, dropped)
    if not dry_run:
        for number in dropped:
            storage.remove(snapshot.snapshot_path(dataset, number))
    waste = _waste(dataset, _named(dataset, dropped), before)
    old = [file for file in waste if file.modified < before]
    if not dry_run:
        old = _delete(dataset, old)
    merged = {}
    for name, columns in _TABLES.items():
        merged[name], replaced = _merge(dataset, name, columns, before, dry_run)
        old += replaced
    kinds = [_kind(file.path) for file in old]
    return Freed(
        dry_run=dry_run,
        snapshots=tuple(dropped),
        files={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        bytes=sum(file.bytes for file in old),
        merged={name: count for name, count in merged.items() if count},
        young=sum(file.modified >= before for file in waste),
    )


def _named(dataset: str, without: Iterable[int] = ()) -> set[str]:
    """Return every file that a snapshot needs."""
    found: set[str] = set()
    numbers = [number for number in snapshot.snapshot_numbers(dataset) if number not in without]
    for uri in (
        storage.join(dataset, schema.MANIFEST),
        *(snapshot.snapshot_path(dataset, n) for n in numbers),
    ):
        try:
            found |= leaving.named(Manifest.model_validate(storage.read_json(uri)))
        except FileNotFoundError:  # another clean-up has dropped it
            continue
        except (ValidationError, ValueError) as error:
            raise UserError(
                f"What a snapshot needs must be known before anything is deleted, but {uri!r} "
                "cannot be read. Nothing was deleted. Put the file back, or delete it if the "
                "snapshot may go."
            ) from error
    return found


def _waste(dataset: str, named: set[str], before: float) -> list[File]:
    """Return the files that nothing kept needs, those of one working folder with one time,
    that of its last sign of life.

    What was written since a preparation began that shows signs of life counts as written now.
    """
    files = storage.files(dataset)
    folders = {
        "rows",
        "rejected",
        *plugins.names("data.columns"),
        *(path.split("/")[0] for path in named if "/" in path),
    }
    alive: dict[str, float] = {}
    for file in files:
        if run := _run(file.path):
            alive[run] = max(alive.get(run, 0), file.modified)
    begun = min((_begun(run) for run, last in alive.items() if last >= before), default=math.inf)
    return [
        file._replace(modified=alive[_run(file.path)] if _run(file.path) else file.modified)
        if file.modified < begun
        else file._replace(modified=math.inf)
        for file in files
        if _run(file.path)
        or _UNFINISHED.search(file.path)
        or (_ours(file.path, folders) and file.path not in named)
    ]


def _run(path: str) -> str:
    """Return the working folder that a file is in, or nothing."""
    return "/".join(path.split("/")[:2]) if path.startswith("work/") else ""


def _begun(run: str) -> float:
    """Return when a preparation began, which its working folder's name says."""
    begun = run.removeprefix("work/").split("-")[0]
    return float(begun) if begun.isdigit() else 0.0


def _ours(path: str, folders: set[str]) -> bool:
    """Tell whether only snapshots keep a file.

    Encoded empty captions, a few kilobytes a text encoder, always stay.
    """
    folder, name = path.split("/")[0], path.split("/")[-1]
    if folder == leaving.FOLDER:
        return name.endswith(".json")
    return folder in folders and name.endswith(".parquet") and not name.startswith("empty-")


def _kind(path: str) -> str:
    return "unfinished files" if _UNFINISHED.search(path) else path.split("/")[0]


def _delete(dataset: str, files: list[File]) -> list[File]:
    """Delete files that are still not needed; return those that were deleted."""
    if not files:
        return []
    with leaving.announced(dataset, [file for file in files if not _run(file.path)]):
        named = _named(dataset)
        going = [file for file in files if file.path not in named]
        with ThreadPoolExecutor(DELETERS) as pool:
            gone = list(pool.map(lambda file: _delete_one(dataset, file), going))
    for run in {_run(file.path) for file in going} - {""}:
        storage.remove(storage.join(dataset, run))
    return [file for file, done in zip(going, gone, strict=True) if done]


def _delete_one(dataset: str, file: File) -> bool:
    """Delete a file unless it was rewritten since it was found."""
    uri = storage.join(dataset, file.path)
    if not _run(file.path) and storage.modified(uri) != file.modified:
        return False
    with contextlib.suppress(FileNotFoundError):  # another clean-up was first
        storage.remove(uri)
    return True


def _merge(
    dataset: str, name: str, columns: Any, before: float, dry_run: bool
) -> tuple[int, list[File]]:
    """Merge the parts of a table where they are many, and delete parts that were merged
    before that time.

    Readers leave out a part as soon as another says that it stands for it (`tables.parts_of`); a
    reader that listed the folder before still finds it. Returns the number of parts merged,
    and the files deleted.
    """
    folder = storage.join(dataset, name)
    files = {file.path: file for file in storage.files(folder)}
    settled = {
        path
        for path, file in files.items()
        if file.modified < before and path.startswith(tables.MERGED)
    }
    replaced = {part for path in settled for part in tables.stands_for(storage.join(folder, path))}
    old = [files[part] for part in sorted(replaced & files.keys())]
    parts = tables.parts_of(folder)
    count = len(parts) if len(parts) > PARTS else 0
    if not dry_run:
        for file in old:
            storage.remove(storage.join(folder, file.path))
        if count:
            _write_merged(
                folder, sorted(path for path in files if path.endswith(".parquet")), columns
            )
    return count, [file._replace(path=f"{name}/{file.path}") for file in old]


def _write_merged(folder: str, parts: list[str], columns: Any) -> None:
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    described = columns.with_metadata({tables.MERGED: json.dumps(parts)})
    with tables.database(content=(folder, columns)) as sql:
        whole = sql.sql("SELECT DISTINCT * FROM content").to_arrow_reader(tables.GROUP)
        tables.write(
            storage.join(folder, f"{tables.MERGED}-{digest[:32]}.parquet"),
            whole,
            described,
            4 * tables.GROUP,
        )
