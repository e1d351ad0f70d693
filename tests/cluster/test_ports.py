"""Every listening port of a real head, asked without the token: who answers, and with what."""

import importlib
import pkgutil
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter

import grpc
import psutil
import pytest
import ray.core.generated
from prometheus_client.parser import text_string_to_metric_families

from cluster import auth

DRIVER = """
import sys
from cluster.connect import connect
with connect(sys.argv[1]):
    import ray
    actor = ray.remote(num_cpus=0)(type("Actor", (), {"answer": lambda self: 1})).remote()
    ray.get(actor.answer.remote())
    print("ready", flush=True)
    sys.stdin.read()
"""

PROCESSES = {
    "control service": r"/gcs_server ",
    "node manager": r"/raylet/raylet ",
    "dashboard": r"/dashboard\.py ",
    "Ray Client": r"ray\.util\.client\.server",
    "autoscaler": r"/monitor\.py ",
    "node agent": r"^ray::DashboardAgent",
    "environment agent": r"^ray::RuntimeEnvAgent",
    "worker": r"^ray::",
    "driver": r"",
}
"""What listens on a node, by its command line; the first that matches."""

METRICS = {"dashboard", "autoscaler", "node agent"}
"""Who serves numbers to Prometheus, which brings no token, on a port of its own."""

LOOPBACK = {"127.0.0.1", "::1"}

PATHS = (
    *("/api/version", "/api/jobs/", "/api/cluster_status", "/api/v0/nodes", "/api/v0/logs"),
    *("/nodes?view=summary", "/logs/", "/api/serve/applications/", "/api/job_agent/jobs/", "/x"),
)

OPEN = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"} | {
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
}
"""What gRPC servers answer to all: that they live, and the names of their services. No setting of
Ray 2.60 turns it off."""


def methods():
    """Every (name, request streams, answer streams) of Ray's gRPC services."""
    for module in pkgutil.iter_modules(ray.core.generated.__path__):
        if module.name.endswith("_pb2"):
            loaded = importlib.import_module(f"ray.core.generated.{module.name}")
            for service in loaded.DESCRIPTOR.services_by_name.values():
                for each in service.methods:
                    name = f"/{service.full_name}/{each.name}"
                    yield name, each.client_streaming, each.server_streaming
    for name in ("Push", "Pull", "FreeObjects"):  # Ray ships no Python for the following
        yield f"/ray.rpc.ObjectManagerService/{name}", False, False
    yield "/ray.rpc.syncer.RaySyncer/StartSync", True, True
    yield "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export", False, False
    for name in OPEN:
        streams = "Reflection" in name
        yield name, streams, streams or name.endswith("Watch")


def call(channel, name, sends_stream, gets_stream):
    """The name of the status that a call without a token ends with; OK when it was answered."""
    kind = f"{'stream' if sends_stream else 'unary'}_{'stream' if gets_stream else 'unary'}"
    # The syncer reads a node's id before it asks for a token (Ray 2.60).
    metadata = (("node_id", "00" * 28),) if name.endswith("StartSync") else ()
    request = iter([b""]) if sends_stream else b""
    try:
        answer = getattr(channel, kind)(name)(request, timeout=60, metadata=metadata)
        if gets_stream:
            next(answer, None)
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def http_status(host, port, path, body=None):
    request = urllib.request.Request(f"http://{host}:{port}{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def speaks_http(host, port):
    """Whether the port answers a plain request as HTTP does; gRPC closes or sends its settings."""
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(5) == b"HTTP/"


def kind_of(process):
    command = " ".join(process.cmdline())
    return next(kind for kind, pattern in PROCESSES.items() if re.search(pattern, command))


def listening(*processes):
    """Every (kind, bound address, port) on which these processes and their children listen."""
    found = set()
    for root in processes:
        for process in [root, *root.children(recursive=True)]:
            try:
                kind, connections = kind_of(process), process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue  # an idle worker that ended meanwhile
            for each in connections:
                if each.status == psutil.CONN_LISTEN:
                    found.add((kind, each.laddr.ip.removeprefix("::ffff:"), each.laddr.port))
    return sorted(found)


@pytest.fixture(scope="module")
def ports(running_head):
    """The head's ports while a driver has a worker at work, once all that start with it listen."""
    command = [sys.executable, "-c", DRIVER, running_head.address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout.readline() == b"ready\n"
        processes = [psutil.Process(pid) for pid in (running_head.pid, driver.pid)]
        deadline = time.monotonic() + 400
        while True:
            found = listening(*processes)
            count = Counter(kind for kind, _, _ in found)
            # The dashboard and the node's agent have a port for requests and one for metrics.
            if set(count) == set(PROCESSES) and count["dashboard"] > 1 and count["node agent"] > 3:
                break
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        yield found
        driver.stdin.close()


def ask(kind, address, port):
    """(protocol, {answer: what gave it}) of one port, to requests without the token."""
    host = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    if not speaks_http(host, port):
        with grpc.insecure_channel(
            f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]
        ) as channel:
            answers = {}
            for name, *streams in methods():
                answers.setdefault(call(channel, name, *streams), set()).add(name)
            return "gRPC", answers
    if http_status(host, port, "/")[1].startswith("# HELP "):
        return "metrics", {}
    answers = {}
    for path in PATHS:
        answers.setdefault(http_status(host, port, path)[0], set()).add(path)
    answers.setdefault(http_status(host, port, "/api/jobs/", b"{}")[0], set()).add("POST")
    return "HTTP", answers


def test_every_port_of_a_head_wants_the_token(ports):
    token = auth.bearer()["Authorization"].removeprefix("Bearer ")
    metrics = []
    for kind, address, port in ports:
        protocol, answers = ask(kind, address, port)
        row = kind, address, protocol, {name: len(each) for name, each in answers.items()}
        print(*row)
        if protocol == "gRPC":
            assert answers.pop("OK", set()) <= OPEN, row
            assert set(answers) == {"UNAUTHENTICATED", "UNIMPLEMENTED"}, row
        elif protocol == "HTTP":
            assert set(answers) == {401}, row
            assert kind != "dashboard" or address in LOOPBACK
        else:
            metrics.append(kind)
            page = http_status("127.0.0.1", port, "/")[1]
            assert list(text_string_to_metric_families(page))  # names, labels and numbers alone
            assert token not in page
    assert sorted(metrics) == sorted(METRICS)


def test_the_page_that_asks_for_the_token_holds_nothing_else(ports, running_head):
    host, port = "127.0.0.1", int(running_head.dashboard_url.rpartition(":")[2])
    assert ("dashboard", host, port) in ports
    status, page = http_status(host, port, "/")
    assert status == 200
    assert "<html" in page
    assert str(running_head.temp_dir) not in page
    assert http_status(host, port, "/api/gcs_healthz") == (200, "success")
