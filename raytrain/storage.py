"""Local folders and object stores through pyarrow filesystems: temporary name, rename,
manifest last.

Every function takes a path or URI (`runs/x`, `s3://bucket/x`, `gs://bucket/x`,
`abfs://container@account.dfs.core.windows.net/x`). A URI may carry pyarrow's options as its query,
`s3://bucket/x?endpoint_override=localhost:9000&scheme=http` for a store of one's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs

from raytrain.errors import UserError

UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(UMASK)


def is_local(uri: str) -> bool:
    """Return whether a path is on this machine's disk."""
    return "://" not in uri or uri.startswith("file://")


def resolve(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a path or URI and the path in it."""
    if is_local(uri):
        return fs.LocalFileSystem(), str(Path(uri.removeprefix("file://")).absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (ValueError, OSError) as error:
        raise UserError(
            "Storage must be a local path or a URI pyarrow knows (s3://, gs://, abfs://), got "
            f"{uri!r}: {error}."
        ) from error
    return filesystem, path


def join(uri: str, *parts: str) -> str:
    """Append path parts to a path or URI; a URI's query stays at its end."""
    if is_local(uri):
        return "/".join([uri.rstrip("/"), *parts])
    address, mark, query = uri.partition("?")
    return "/".join([address.rstrip("/"), *parts]) + mark + query


def base_name(uri: str) -> str:
    """Return the last part of a path or URI, without a URI's query."""
    address = uri if is_local(uri) else uri.partition("?")[0]
    return address.rstrip("/").rpartition("/")[2]


def exists(uri: str) -> bool:
    """Return whether a file or folder is there."""
    filesystem, path = resolve(uri)
    return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)


def names(uri: str) -> list[str]:
    """Return the sorted names in a folder; an absent folder has none."""
    filesystem, path = resolve(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return sorted(info.base_name for info in infos)


class File(NamedTuple):
    """A file in a folder."""

    path: str
    """Relative to the folder."""
    bytes: int
    modified: float
    """Seconds since 1970."""


def files(uri: str) -> list[File]:
    """Return every file in a folder and the folders in it; an absent folder has none."""
    filesystem, path = resolve(uri)
    infos = filesystem.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True))
    return [
        File(info.path[len(path) :].lstrip("/"), info.size or 0, (info.mtime_ns or 0) / 1e9)
        for info in infos
        if info.type == fs.FileType.File
    ]


def read_bytes(uri: str) -> bytes:
    """Return a file's content."""
    filesystem, path = resolve(uri)
    with filesystem.open_input_stream(path) as stream:
        return bytes(stream.read())


def read_json(uri: str) -> Any:
    """Return a JSON file's content."""
    return json.loads(read_bytes(uri))


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file whole or not at all: temporary name, flush to disk, rename."""
    with atomic(uri) as temporary:
        Path(temporary).write_bytes(content)


def write_json(uri: str, content: Any) -> None:
    """Write a JSON file whole or not at all."""
    write_bytes(uri, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def write_new_json(uri: str, content: Any) -> bool:
    """Write a JSON file unless there is one of that name; return whether it was written.

    On a local disk two writers never both succeed; an object store has no such promise here.
    """
    if not is_local(uri):
        if exists(uri):
            return False
        write_json(uri, content)
        return True
    temporary = f"{uri}.new-{uuid.uuid4().hex[:8]}"
    write_json(temporary, content)
    try:
        os.link(resolve(temporary)[1], resolve(uri)[1])
    except FileExistsError:
        return False
    finally:
        remove(temporary)
    return True


def move(uri: str, to: str) -> None:
    """Rename a file, replacing what has the new name; both are on the same storage."""
    filesystem, path = resolve(uri)
    filesystem.move(path, resolve(to)[1])


def modified(uri: str) -> float:
    """Return when a file was last written, in seconds since 1970; 0 where there is none."""
    filesystem, path = resolve(uri)
    found = filesystem.get_file_info(path).mtime_ns
    return found / 1e9 if found else 0.0


def size(uri: str) -> int:
    """Return a file's bytes; 0 where there is none."""
    filesystem, path = resolve(uri)
    return int(filesystem.get_file_info(path).size or 0)


@contextlib.contextmanager
def atomic(uri: str) -> Iterator[str]:
    """Give a local temporary path to write to; on leaving without an error it becomes `uri`
    (file or folder) at once.

    On an object store a folder is uploaded file by file, any `manifest.json` last. A full disk is
    a UserError and leaves the previous content unchanged.
    """
    local = is_local(uri)
    filesystem, path = resolve(uri)
    try:
        if local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            temporary = f"{path}.tmp-{uuid.uuid4().hex[:8]}"
        else:
            temporary = os.path.join(tempfile.mkdtemp(prefix="raytrain-"), "content")
        try:
            yield temporary
            _flush(temporary)
            if local:
                _rename(temporary, path)
            else:
                _upload(temporary, filesystem, path)
        finally:
            _remove(temporary if local else os.path.dirname(temporary))
    except OSError as error:
        if error.errno in (
            28,
            122,
            30,
            13,
            1,
            17,
            20,
        ):  # no space, quota, read-only, no permission, a file for a folder
            raise UserError(
                f"Writing {uri!r} failed: {error.strerror}. Nothing that was there before is "
                "lost; free some space or choose another folder, then run the same command again."
            ) from error
        raise


def remove(uri: str) -> None:
    """Delete a file or a folder with all it holds; an absent one is fine."""
    filesystem, path = resolve(uri)
    kind = filesystem.get_file_info(path).type
    if kind == fs.FileType.Directory:
        filesystem.delete_dir(path)
    elif kind == fs.FileType.File:
        filesystem.delete_file(path)


def fetch(uri: str, cache: str | None = None) -> str:
    """Return a local path with the content of a file: itself when local, else a download."""
    _, path = resolve(uri)
    if is_local(uri):
        return path
    target = os.path.join(cache or tempfile.mkdtemp(prefix="raytrain-"), os.path.basename(path))
    if not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        download(uri, target)
    return target


def download(uri: str, target: str) -> None:
    """Copy a file to a local path whose folder is there."""
    filesystem, path = resolve(uri)
    fs.copy_files(
        path, target, source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem()
    )


def _flush(path: str) -> None:
    """Bring files to the disk, readable by others as the umask has it; safetensors makes its own
    private."""
    files = (
        [path] if os.path.isfile(path) else [str(p) for p in Path(path).rglob("*") if p.is_file()]
    )
    for name in files:
        if not os.path.islink(name):
            with contextlib.suppress(PermissionError):  # of a file system without modes
                os.chmod(name, 0o666 & ~UMASK)
        with open(name, "rb") as stream:
            os.fsync(stream.fileno())


def _rename(temporary: str, path: str) -> None:
    if os.path.isdir(
        path
    ):  # a folder cannot be replaced in one step: move the old one aside first
        aside = f"{path}.old-{uuid.uuid4().hex[:8]}"
        os.rename(path, aside)
        os.rename(temporary, path)
        shutil.rmtree(aside)
    else:
        os.replace(temporary, path)


def _upload(temporary: str, filesystem: fs.FileSystem, path: str) -> None:
    if os.path.isfile(temporary):
        with filesystem.open_output_stream(path) as stream:
            stream.write(Path(temporary).read_bytes())
        return
    files = sorted(
        (p for p in Path(temporary).rglob("*") if p.is_file()),
        key=lambda p: p.name == "manifest.json",
    )
    for file in files:
        with filesystem.open_output_stream(
            f"{path}/{file.relative_to(temporary).as_posix()}"
        ) as stream:
            stream.write(file.read_bytes())


def _remove(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.exists(path):
        os.unlink(path)


def parent(uri: str) -> str:
    """Return the local path itself, or the nearest folder above it that is there."""
    path = resolve(uri)[1]
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def check_writable(what: str, key: str, uri: str) -> None:
    """Raise UserError where a local folder cannot be made or written to; `what` is its name in
    words, `key` the setting that says where it is."""
    if not is_local(uri):
        return
    there = parent(uri)
    if not os.path.isdir(there) or not os.access(there, os.W_OK | os.X_OK):
        why = "no folder" if not os.path.isdir(there) else "not writable"
        raise UserError(
            f"{what[0].upper()}{what[1:]}, {uri!r}, must be writable, but {there!r} is "
            f"{why}: what is made could not be kept. Make room for it, or choose another "
            f"{key}."
        )
