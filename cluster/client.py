"""Ray's job client, made to talk to the cluster that was named and to no other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import auth
from cluster.errors import ClusterError
from cluster.probe import probe_dashboard


def dashboard_address(address: str | None) -> str:
    """The dashboard's URL: the argument, else RAY_API_SERVER_ADDRESS or RAY_ADDRESS;
    never a guess."""
    chosen = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS")
    if not chosen:
        raise ClusterError(
            "A job must be sent to a named cluster, but neither --address nor RAY_ADDRESS is set: "
            "a guess could reach another project's cluster. Write for example --address "
            "http://127.0.0.1:8265."
        )
    url = chosen if "://" in chosen else f"http://{chosen}"
    if not url.startswith(("http://", "https://")):
        raise ClusterError(
            f"--address must be the http address of a Ray dashboard, but it is {chosen}: jobs "
            "cannot be sent there. Write for example http://127.0.0.1:8265."
        )
    return url.rstrip("/")


@contextmanager
def job_client(url: str) -> Iterator[Any]:
    """Ray's job client for exactly this URL; an answer that is a refusal becomes a
    `ClusterError`."""
    auth.enable()
    probe_dashboard(url)
    from ray.job_submission import JobSubmissionClient

    try:
        with _only_address(url):
            client = JobSubmissionClient(url)
        yield client
    except request_errors() as error:
        raise ClusterError(
            f"The cluster must take the request, but {url} refused it: {error}. Nothing more was "
            "done; check the dashboard."
        ) from error


def request_errors() -> tuple[type[Exception], ...]:
    """What a refused or broken request raises: Ray's client wraps some errors,
    and lets its HTTP libraries' through."""
    from ray.dashboard.modules.job import sdk
    from ray.exceptions import RayError

    return (RuntimeError, RayError, sdk.requests.RequestException, sdk.aiohttp.ClientError)


@contextmanager
def _only_address(url: str) -> Iterator[None]:
    """Pass the address twice, because Ray lets RAY_API_SERVER_ADDRESS and RAY_ADDRESS override
    the one it is given."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = url
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before
