"""Follow a submitted job: print its log as it grows, stop it on Ctrl-C, return its exit code."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, TextIO

from cluster.client import job_client, request_errors
from cluster.errors import ClusterError

STOPPED = 130
_STOP_S = 40.0
_RETRIES = 6


def follow(
    submission_id: str, url: str, *, output: TextIO | None = None, stops: bool = True
) -> int:
    """Print the job's log until it ends and return its exit code;
    Ctrl-C stops the job and returns 130, or without `stops` leaves it alone.

    A broken connection is retried for about a minute, from where the log stopped; then the job
    continues alone and a `ClusterError` says how to find it.
    """
    with job_client(url) as client:
        log = _Log(client, submission_id, output or sys.stdout)
        try:
            info = _follow(client, submission_id, log)
        except KeyboardInterrupt:
            if not stops:
                raise
            print(f"Stopping {submission_id} ...", file=sys.stderr, flush=True)
            info = stopped(client, submission_id)
            log.finish()
    return _exit_code(info)


class _Log:
    """A job's log, printed once: Ray streams it from its beginning on every new connection."""

    def __init__(self, client: Any, submission_id: str, output: TextIO) -> None:
        self._client = client
        self._id = submission_id
        self._output = output
        self._num_printed = 0

    async def stream(self) -> None:
        """Print what comes until the job ends or the connection breaks."""
        position = 0
        async for lines in self._client.tail_job_logs(self._id):
            self._print(lines, position)
            position += len(lines)

    def finish(self) -> None:
        """Print what the stream did not bring."""
        self._print(self._client.get_job_logs(self._id), 0)

    def _print(self, text: str, position: int) -> None:
        fresh = text[max(0, self._num_printed - position) :]
        if fresh:
            self._output.write(fresh)
            self._output.flush()
            self._num_printed = max(self._num_printed, position + len(text))


def _follow(client: Any, submission_id: str, log: _Log) -> Any:
    """The job's details once it has ended."""
    num_failures = 0
    while True:
        try:
            asyncio.run(log.stream())
            info = client.get_job_info(submission_id)
            if info.status.is_terminal():
                log.finish()
                return info
            num_failures = 0
        except request_errors() as error:
            num_failures += 1
            if num_failures > _RETRIES:
                raise ClusterError(
                    "The cluster must stay reachable to be followed, but the connection broke "
                    f"{num_failures} times ({error}). The job continues without you; follow "
                    f"it again with `raytrain job logs --follow {submission_id}` or on the "
                    "dashboard."
                ) from error
        time.sleep(min(2**num_failures, 20) / 2)


def stopped(client: Any, submission_id: str) -> Any:
    """Ask a job to stop, wait until it has and return its details; Ctrl-C leaves at once."""
    client.stop_job(submission_id)
    deadline = time.monotonic() + _STOP_S
    while not (info := client.get_job_info(submission_id)).status.is_terminal():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"A stopped job must end, but {submission_id} still runs after {_STOP_S:.0f} s: "
                "it holds its machines. Look at it on the dashboard, and stop it again with "
                f"`raytrain job stop {submission_id}`."
            )
        time.sleep(0.5)
    return info


def _exit_code(info: Any) -> int:
    """The job's own exit code where Ray knows it; never 0 unless it succeeded."""
    if info.status == "SUCCEEDED":
        return 0
    if info.status == "STOPPED":
        print(f"{info.submission_id} was stopped.", file=sys.stderr)
        return STOPPED
    if info.driver_exit_code is None:  # it never started: the message is the only explanation
        print(f"{info.submission_id} did not start: {info.message}", file=sys.stderr)
        return 1
    code = int(info.driver_exit_code)
    return 128 - code if code < 0 else code or 1  # a negative code is the signal that ended it
