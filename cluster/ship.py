"""Gather what a submitted job needs into one folder: our packages, the user's files, the config.

Ray would zip the working directory as it is, with whatever `.gitignore` happens to hide (a
config in `runs/`) or to show (a folder of images). Here the content is chosen: what git knows or
would add, or else every file; no hidden files, which hold secrets; nothing large, because
weights and images belong on storage that the cluster reaches. The config always travels.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.errors import ClusterError

PACKAGES = ("cluster", "raytrain", "tuning", "jobs")
LARGEST_FILE = 32 * 2**20
LARGEST_SHIPMENT = 400 * 2**20  # Ray refuses 512 MiB, after the upload
_FOLDERS_LEFT_OUT = frozenset(
    {"__pycache__", "venv", "runs", "wandb", "outputs", "build", "dist", "node_modules"}
)


@dataclass(frozen=True)
class Shipment:
    """A folder ready to be sent, the config's path inside it, its size,
    and the files too large to go along."""

    folder: Path
    config: str
    num_bytes: int
    left_out: tuple[str, ...]


def gather(config: Path, working_dir: Path | None, into: Path) -> Shipment:
    """Fill the empty folder `into`; without a `working_dir` our packages and the config travel
    alone."""
    if not config.is_file():
        raise ClusterError(
            f"The config must be a file, but {config} is none: nothing was submitted. Correct the "
            "path."
        )
    left_out: list[str] = []
    if working_dir is not None:
        if not working_dir.is_dir():
            raise ClusterError(
                f"--working-dir must be a folder, but {working_dir} is none: nothing was "
                "submitted. Correct the path, or leave it out."
            )
        for path in _files(working_dir):
            if (working_dir / path).stat().st_size > LARGEST_FILE:
                left_out.append(str(path))
            else:
                _place(working_dir / path, into / path)
    for package, folder in _own_packages(working_dir):
        for path in _walk(folder):
            _place(folder / path, into / package / path)
    place = _config_place(config, working_dir)
    _place(config, into / place)
    num_bytes = sum(file.stat().st_size for file in into.rglob("*") if file.is_file())
    if num_bytes > LARGEST_SHIPMENT:
        raise ClusterError(
            f"A shipment must stay under {LARGEST_SHIPMENT >> 20} MiB, but {working_dir} holds "
            f"{num_bytes >> 20} MiB: Ray would refuse it. Move data to storage that the cluster "
            "reaches (s3://, gs://, a shared disk), or name a smaller --working-dir."
        )
    return Shipment(into, str(place), num_bytes, tuple(left_out))


def default_working_dir() -> Path | None:
    """The current directory when it is a checkout of this project;
    otherwise only the installed packages travel."""
    here = Path.cwd()
    return here if _is_checkout(here) else None


def _is_checkout(folder: Path) -> bool:
    return all((folder / package / "__init__.py").is_file() for package in PACKAGES)


def _own_packages(working_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """Our packages as installed, unless the working directory brings all of them."""
    if working_dir is not None and _is_checkout(working_dir):
        return
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ClusterError(
                f"All of {', '.join(PACKAGES)} must be importable to be shipped, but {package} is "
                "not: the job could not start. Install the project (`pip install -e .`), or run "
                "from its checkout."
            )
        if working_dir is not None and (working_dir / package).exists():
            raise ClusterError(
                "A working directory must not hold a package named like one of ours, but "
                f"{working_dir} holds {package}/: it would hide ours on the cluster. Rename it, "
                "or submit from a full checkout."
            )
        yield package, Path(spec.submodule_search_locations[0])


def _config_place(config: Path, working_dir: Path | None) -> PurePosixPath:
    """Where the config travels: at its own place below the working directory,
    else in `submitted/`."""
    if working_dir is not None and config.resolve().is_relative_to(working_dir.resolve()):
        return PurePosixPath(config.resolve().relative_to(working_dir.resolve()).as_posix())
    return PurePosixPath("submitted") / config.name


def _files(folder: Path) -> Iterator[PurePosixPath]:
    """The files of a working directory that may travel."""
    for path in _git_files(folder) if (folder / ".git").exists() else _walk(folder):
        if not any(_skipped(part) for part in path.parts) and (folder / path).is_file():
            yield path


def _git_files(folder: Path) -> Iterator[PurePosixPath]:
    """What git tracks or would add: the user's own `.gitignore` decides."""
    listing = subprocess.run(
        ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        reason = listing.stderr.decode(errors="replace").strip()
        raise ClusterError(
            f"The files to ship come from git, but `git ls-files` failed in {folder}: {reason}. "
            "Repair the repository, or name a --working-dir without one."
        )
    return (
        PurePosixPath(os.fsdecode(name))
        for name in sorted(set(listing.stdout.split(b"\0")))
        if name
    )


def _walk(folder: Path) -> Iterator[PurePosixPath]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _skipped(name))
        for name in sorted(files):
            yield PurePosixPath(Path(root, name).relative_to(folder).as_posix())


def _skipped(name: str) -> bool:
    return name.startswith(".") or name in _FOLDERS_LEFT_OUT or name.endswith(".egg-info")


def _place(source: Path, target: Path) -> None:
    """Put a file at its place: by hard link where the disk allows,
    because a shipment may be hundreds of megabytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
