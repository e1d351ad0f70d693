"""Paths and URIs: a URI's query names the store and must survive every step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raytrain import storage


def test_parts_go_before_the_query_of_a_uri_and_after_a_local_name() -> None:
    assert (
        storage.join("s3://b/x/?scheme=http&region=eu", "a", "b.json")
        == "s3://b/x/a/b.json?scheme=http&region=eu"
    )
    assert storage.join("s3://b/x", "a") == "s3://b/x/a"
    assert storage.join("what?", "a") == "what?/a"
    assert storage.base_name("s3://b/x/run/?scheme=http&region=eu") == "run"
    assert storage.base_name("runs/what?/") == "what?"


def test_a_container_of_azure_is_a_place() -> None:
    uri = storage.join("abfs://images@account.dfs.core.windows.net/runs", "a")
    filesystem, path = storage.resolve(uri)
    assert (filesystem.type_name, path) == ("abfs", "images/runs/a")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on this machine, as a URI with the server in its query."""
    import boto3
    from moto.server import ThreadedMotoServer

    for name, value in {
        "ACCESS_KEY_ID": "test",
        "SECRET_ACCESS_KEY": "test",
        "EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client(
        "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1"
    ).create_bucket(Bucket="storage")
    yield f"s3://storage/x?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


def test_a_store_named_in_the_query_is_the_one_used(store: str) -> None:
    place = storage.join(store, "run", "manifest.json")
    storage.write_json(place, {"a": 1})
    assert storage.read_json(place) == {"a": 1}
    assert storage.exists(place)
    assert storage.names(storage.join(store, "run")) == ["manifest.json"]
    storage.remove(place)
    assert not storage.exists(place)
