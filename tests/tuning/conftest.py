"""Where studies are kept: an S3 store and a PostgreSQL server on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.data import servers
from tests.tuning import postgres as server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of an S3 server, as a URI with the server in its query."""
    with servers.s3("sweeps") as (_, query):
        yield f"s3://sweeps/made{query}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a database of a PostgreSQL server, whose password is in the environment."""
    if server.programs() is None:
        pytest.skip("no PostgreSQL server here (Debian's package `postgresql`)")
    with server.running() as address:
        yield address
