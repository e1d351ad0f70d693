"""A PostgreSQL server of its own, on a Unix socket, that asks for a password."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PASSWORD = "no%one{knows}"
VARIABLE = "RAYTRAIN_TEST_PASSWORD"


def programs() -> Path | None:
    """Return the folder of the server's programs; Debian keeps them out of PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextmanager
def running() -> Iterator[str]:
    """Run a server for the length of the block; give its address for `tune.storage`."""
    folder = Path(tempfile.mkdtemp(prefix="rt-pg-", dir="/tmp"))  # a socket's path is short
    (folder / "password").write_text(PASSWORD)
    user = None
    if os.getuid() == 0:  # it refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)

    def call(program: str, *arguments: str) -> None:
        command = [str((programs() or Path()) / program), "-D", str(folder / "data"), *arguments]
        with open(folder / "told", "a") as told:  # a pipe would stay open in the server
            done = subprocess.run(command, user=user, cwd=folder, stdout=told, stderr=told)
        assert done.returncode == 0, (folder / "told").read_text()

    try:
        call(
            "initdb", "-U", "tester", "-A", "scram-sha-256", "--pwfile", str(folder / "password"),
            "--no-sync", "--locale", "C", "-E", "UTF8",
        )  # fmt: skip
        call("pg_ctl", "-w", "-t", "300", "-o", f"-F -h '' -k {folder}", "start")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(VARIABLE, PASSWORD)
                yield f"postgresql://tester:${{{VARIABLE}}}@/postgres?host={folder}"
        finally:
            call("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
