"""Connections, each in a process of its own: a process holds one, and its environment decides."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import connect, probe
from cluster.connect import choose
from cluster.errors import ClusterError
from cluster.head import head

JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "10.0.0.5:6379"}

SHOW = """
import sys
from cluster.connect import connect
from cluster.errors import ClusterError
try:
    with connect(sys.argv[1] or None) as connection:
        import ray
        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
        cpus = int(ray.cluster_resources()["CPU"])
        print(connection.address, connection.private, len(nodes), cpus)
except ClusterError as error:
    sys.exit(f"error: {error}")
"""


def show(address, **variables):
    return subprocess.run(
        [sys.executable, "-c", SHOW, address],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("address", "environment", "expected"),
    [
        (None, {}, None),
        ("local", {}, None),
        ("local", {"RAY_ADDRESS": "10.0.0.5:6379"}, None),
        (None, {"RAY_ADDRESS": "10.0.0.5:6379"}, "10.0.0.5:6379"),
        (None, {"RAY_ADDRESS": "local"}, None),
        ("10.0.0.7:6379", {"RAY_ADDRESS": "10.0.0.5:6379"}, "10.0.0.7:6379"),
        (None, JOB, "10.0.0.5:6379"),
        ("local", JOB, "10.0.0.5:6379"),
        ("auto", JOB, "10.0.0.5:6379"),
        ("10.0.0.7:6379", JOB, "10.0.0.7:6379"),
    ],
)
def test_choose(address, environment, expected):
    assert choose(address, environment) == expected


@pytest.mark.parametrize(
    ("address", "environment", "message"),
    [
        ("auto", {}, "another project"),
        (None, {"RAY_ADDRESS": "auto"}, "RAY_ADDRESS must name a cluster"),
        ("http://10.0.0.5:8265", {}, "raytrain submit"),
        (None, {"RAY_ADDRESS": "http://10.0.0.5:8265"}, "raytrain submit"),
    ],
)
def test_choose_refuses_what_it_cannot_join(address, environment, message):
    with pytest.raises(ClusterError, match=message):
        choose(address, environment)


def test_a_private_ray_starts_works_and_leaves_nothing(tmp_path, running_head):
    """Also beside a running head, with Ray's own pointers at that head in the environment."""
    code = """
import logging, os, ray
from pathlib import Path
from cluster.connect import connect
with connect("local", num_cpus=1, object_store_mb=80) as connection:
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    niceness = ray.get(ray.remote(lambda: os.nice(0)).remote())
    print(connection.private, connection.dashboard_url, niceness, connection.address)
    with connect() as inner:
        print(inner == connection)
    print(ray.is_initialized())
print(ray.is_initialized(), session.exists(), session.parent.exists())
"""
    environment = {**os.environ, "RAY_ADDRESS": running_head.address}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("True None 0 "), shown.stdout + shown.stderr
    assert lines[0].split()[-1] != running_head.address
    assert lines[1:] == ["True", "True", "False False False"]
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize("late", [1, connect.STARTS])
def test_a_late_node_is_started_again_and_given_up_in_words(late, monkeypatch, caplog):
    import ray

    starts = []

    def init(**_):
        starts.append(1)
        if len(starts) <= late:
            raise Exception(f"The current node {connect.LATE}.")  # as Ray does

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda **_: None)
    monkeypatch.setattr(connect, "_describe", lambda: "connected")
    if late < connect.STARTS:
        with connect._session("a private Ray") as connection:
            assert connection == "connected"
    else:
        with pytest.raises(ClusterError, match="a private Ray did not: The current node"):
            with connect._session("a private Ray"):
                pass
    assert len(starts) == min(late + 1, connect.STARTS)
    assert "a private Ray was not ready in time; retry 1" in caplog.text


def test_a_dead_address_is_one_clear_error_and_not_rays_own():
    with socket.socket() as taken:
        taken.bind(
            ("127.0.0.1", 0)
        )  # bound but not listening: nobody else takes the port meanwhile
        shown = show(f"127.0.0.1:{taken.getsockname()[1]}")
    assert shown.returncode == 1
    assert shown.stderr.startswith(
        "error: A running cluster must listen at the address, but nothing does at 127.0.0.1:"
    )
    assert len(shown.stderr.splitlines()) == 1


def test_a_listener_that_is_no_ray_is_one_clear_error_in_time(monkeypatch):
    monkeypatch.setattr(probe, "PATIENCE_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(ClusterError, match="did not answer as one within 3 s"):
            probe.probe_ray(f"127.0.0.1:{silent.getsockname()[1]}")


@pytest.mark.parametrize("address", ["somewhere", "h:0", "h:99999", "h:", ":1", "h:x"])
def test_an_address_without_a_port_is_refused_in_words(address):
    with pytest.raises(ClusterError, match="must be host:port"):
        probe.probe_ray(address)


def test_a_wrong_token_is_one_clear_error_and_not_rays_own(running_head, tmp_path):
    wrong = tmp_path / "wrong"
    shown = show(running_head.address, RAY_AUTH_TOKEN_PATH="", RAYTRAIN_TOKEN_PATH=str(wrong))
    assert shown.returncode == 1
    assert f"refused the one from {wrong}" in shown.stderr
    assert len(shown.stderr.splitlines()) == 1


@pytest.mark.slow
def test_two_heads_on_one_machine_do_not_disturb_each_other(running_head):
    with head(num_cpus=3, object_store_mb=100) as second:
        assert second.address != running_head.address
        both = [show(running_head.address), show(second.address)]
        assert both[0].stdout.split() == [running_head.address, "False", "1", "2"], both[0].stderr
        assert both[1].stdout.split() == [second.address, "False", "1", "3"], both[1].stderr
    assert not second.temp_dir.exists()
    assert not Path(f"/proc/{second.pid}").exists()
    survivor = show("", RAY_ADDRESS=running_head.address)
    assert survivor.stdout.split() == [running_head.address, "False", "1", "2"], survivor.stderr
    assert show(second.address).returncode == 1
