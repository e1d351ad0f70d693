"""The jobs of a cluster: which there are, how one ended, its log again, its end."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from cluster import follow
from cluster.client import dashboard_address, job_client
from cluster.errors import ClusterError


@dataclass(frozen=True)
class Job:
    """What a cluster tells of one job."""

    id: str
    stage: str
    """What it runs; empty where it was not submitted by `raytrain submit`."""
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    message: str
    """The cluster's last words of it."""
    started: datetime | None
    ended: datetime | None
    exit_code: int | None
    """The driver's own; None while it runs, or where it never started."""


def listing(address: str | None = None) -> list[Job]:
    """Return the jobs of a cluster, the newest first. Raises `ClusterError`."""
    with job_client(dashboard_address(address)) as client:
        found = [_job(info) for info in client.list_jobs() if info.submission_id]
    never = datetime.fromtimestamp(0, UTC)
    return sorted(found, key=lambda job: job.started or never, reverse=True)


def status(id: str, address: str | None = None) -> Job:
    """Return what is known of a job. Raises `ClusterError` where the cluster has none of the id,
    as all of these do."""
    with job_client(dashboard_address(address)) as client:
        return _job(_find(client, id))


def logs(id: str, address: str | None = None) -> str:
    """Return a job's log so far."""
    with job_client(dashboard_address(address)) as client:
        _find(client, id)
        return str(client.get_job_logs(id))


def followed(id: str, address: str | None = None, *, output: TextIO | None = None) -> int:
    """Print a job's log until it ends and return its exit code; Ctrl-C leaves the job alone."""
    url = dashboard_address(address)
    with job_client(url) as client:
        _find(client, id)
    return follow.follow(id, url, output=output, stops=False)


def stop(id: str, address: str | None = None) -> Job:
    """Stop a job, wait until it has ended, and return how; one that has ended stays as it is."""
    with job_client(dashboard_address(address)) as client:
        info = _find(client, id)
        return _job(info if info.status.is_terminal() else follow.stopped(client, id))


def _find(client: Any, id: str) -> Any:
    infos = {info.submission_id: info for info in client.list_jobs() if info.submission_id}
    if id in infos:
        return infos[id]
    near = difflib.get_close_matches(id, infos, 1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    raise ClusterError(
        f"A job is named by its id, but the cluster has no job {id!r}. {hint}`raytrain job list` "
        "names those it has; a head that was started anew has forgotten its old ones."
    )


def _job(info: Any) -> Job:
    return Job(
        id=info.submission_id,
        stage=(info.metadata or {}).get("stage", ""),
        status=str(getattr(info.status, "value", info.status)),
        message=info.message or "",
        started=_time(info.start_time),
        ended=_time(info.end_time),
        exit_code=info.driver_exit_code,
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
