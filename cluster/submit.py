"""Send a job to a cluster and follow it to its end.

    code = submit(
        "train", Path("config.toml"), ["train.steps=100"], address="http://127.0.0.1:8265"
    )

The job runs `python -m jobs.<stage> <config> --set ...` on the cluster, with the files that
`cluster.ship` gathered as its working directory, on the driver and on every worker.
"""

from __future__ import annotations

import datetime
import secrets
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from cluster.client import dashboard_address, job_client
from cluster.errors import ClusterError
from cluster.follow import STOPPED, follow
from cluster.ship import LARGEST_FILE, Shipment, default_working_dir, gather

_STOP_GRACE_S = 30
_KILLED = 128
"""A larger exit code is of a driver that a signal has ended."""


def submit(
    stage: str,
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    working_dir: Path | None = None,
    submission_id: str | None = None,
    env: Mapping[str, str] | None = None,
    retries: int = 0,
    output: TextIO | None = None,
) -> int:
    """Start a job, follow its log and return its exit code: 0 only when it succeeded,
    130 when it was stopped.

    One that a signal has ended, as of a head without memory, is submitted again, `retries` times
    at most: a stage goes on where it was.
    """
    url = dashboard_address(address)
    own = submission_id or _new_id(stage)
    for turn in range(retries + 1):
        started = start(
            stage,
            config_path,
            overrides,
            address=url,
            working_dir=working_dir,
            submission_id=f"{own}-retry-{turn}" if turn else own,
            env=env,
        )
        print(
            f"Submitted {started}; Ctrl-C stops it. See {url}/#/jobs/{started}",
            file=sys.stderr,
            flush=True,
        )
        code = follow(started, url, output=output)
        if code <= _KILLED or code == STOPPED or turn == retries:
            break
        print(
            f"{started} was killed (exit code {code}); retry {turn + 1} of {retries}.",
            file=sys.stderr,
            flush=True,
        )
    return code


def start(
    stage: str,
    config_path: Path,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    working_dir: Path | None = None,
    submission_id: str | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Start a job and return its submission id at once.

    `working_dir` None ships the current directory when it is a checkout, else the installed
    packages. `env` is set for the driver and the workers; the dashboard's API shows it to whoever
    holds the token. Raises `ClusterError`.
    """
    url = dashboard_address(address)
    for override in overrides:
        if not override.partition("=")[1]:
            raise ClusterError(
                f"--set takes KEY=VALUE, but it is {override!r}: nothing was submitted. Write for "
                "example train.steps=100."
            )
    with tempfile.TemporaryDirectory(prefix="rt-ship-") as folder:
        shipment = gather(config_path, working_dir or default_working_dir(), Path(folder))
        for name in shipment.left_out:
            print(f"Not shipped, larger than {LARGEST_FILE >> 20} MiB: {name}", file=sys.stderr)
        with job_client(url) as client:
            return _send(
                client, stage, shipment, overrides, submission_id or _new_id(stage), env or {}
            )


def _send(
    client: Any,
    stage: str,
    shipment: Shipment,
    overrides: Sequence[str],
    submission_id: str,
    env: Mapping[str, str],
) -> str:
    if any(job.submission_id == submission_id for job in client.list_jobs()):
        raise ClusterError(
            f"A submission id is used once on a cluster, but {submission_id} exists: Ray would "
            "refuse it with a server error. Choose another --id, or leave it out."
        )
    entrypoint = ["python", "-m", f"jobs.{stage}", shipment.config]
    for override in overrides:
        entrypoint += ["--set", override]
    # SIGINT lets a job close its files and leave its `with` blocks; Ray's SIGTERM and three
    # seconds would cut it off.
    stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_GRACE_S)}
    started: str = client.submit_job(
        entrypoint=shlex.join(entrypoint),
        submission_id=submission_id,
        runtime_env={"working_dir": str(shipment.folder), "env_vars": {**stopping, **env}},
        metadata={"stage": stage},
    )
    return started


def _new_id(stage: str) -> str:
    """A name that sorts by time and says what runs: it is what the dashboard lists."""
    return f"{stage}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
