"""Start a Ray head as a child process, for tests and for one-machine clusters.

    python -m cluster.head --num-cpus 4      # prints its addresses, ends with Ctrl-C

`ray stop` ends every Ray process of the machine, other people's too. A head that runs as our child
(`--block`) ends alone, by SIGTERM. Every port is chosen free and the temporary directory is its
own, so several heads share a machine. The dashboard answers on loopback only, and everything asks
for the token but the metrics, which are numbers (docs/cluster.md lists the ports).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import auth
from cluster.errors import ClusterError
from cluster.probe import probe_dashboard

_START_S = 90.0
_STOP_S = 20.0
_DRAIN_S = 5


@dataclass(frozen=True)
class Head:
    """A running head: `address` for `connect`, `dashboard_url` for `submit`."""

    address: str
    dashboard_url: str
    temp_dir: Path
    pid: int


@contextmanager
def head(
    *, num_cpus: int | None = None, num_gpus: int | None = None, object_store_mb: int | None = None
) -> Iterator[Head]:
    """Run a head for the length of the block. Raises `ClusterError` when it does not come up."""
    auth.enable()
    if os.environ["RAY_AUTH_MODE"] != "token":
        raise ClusterError(
            f"A head must ask for a token, but RAY_AUTH_MODE is {os.environ['RAY_AUTH_MODE']}: "
            "whoever reaches its ports could run code here. Unset RAY_AUTH_MODE."
        )
    temp_dir = Path(
        tempfile.mkdtemp(prefix="rt-head-", dir="/tmp")
    )  # short: socket paths hold 107 characters
    try:
        client_port, dashboard_port, *metric_ports = _free_ports(4)
        options = {"num-cpus": num_cpus, "num-gpus": num_gpus}
        options["object-store-memory"] = (
            None if object_store_mb is None else object_store_mb * 2**20
        )
        command = [
            *(
                sys.executable,
                "-m",
                "ray.scripts.scripts",
                "start",
                "--head",
                "--block",
                "--disable-usage-stats",
            ),
            *(
                "--port=0",
                "--dashboard-agent-listen-port=0",
                "--dashboard-agent-grpc-port=0",
                "--metrics-export-port=0",
            ),
            *(
                "--include-dashboard=true",
                "--dashboard-host=127.0.0.1",
                f"--dashboard-port={dashboard_port}",
            ),
            *(f"--ray-client-server-port={client_port}", f"--temp-dir={temp_dir}"),
            *(f"--{name}={value}" for name, value in options.items() if value is not None),
        ]
        log_path = temp_dir / "head.log"
        with log_path.open("w") as log:
            # A session of its own: Ctrl-C reaches us first, and we end the head in order.
            child = subprocess.Popen(
                command,
                env=_environment(metric_ports),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{dashboard_port}"
            yield Head(_wait_until_ready(child, temp_dir, url, log_path), url, temp_dir, child.pid)
        finally:
            _stop(child)
    finally:
        shutil.rmtree(temp_dir, ignore_errors=True)


def _environment(metric_ports: list[int]) -> dict[str, str]:
    """The child's environment: no pointer to another cluster, and this Python first on PATH for
    its jobs."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    }
    return {
        **environment,
        "RAY_worker_niceness": "0",
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(_DRAIN_S),
        "AUTOSCALER_METRIC_PORT": str(
            metric_ports[0]
        ),  # fixed ports by default: a second head would lose its metrics
        "DASHBOARD_METRIC_PORT": str(metric_ports[1]),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_ready(
    child: subprocess.Popen[bytes], temp_dir: Path, url: str, log_path: Path
) -> str:
    """The head's host:port, once its dashboard takes jobs."""
    address_file = temp_dir / "ray_current_cluster"  # written by `ray start` when the head is up
    deadline = time.monotonic() + _START_S
    reason = "it wrote no address"
    while child.poll() is None and time.monotonic() < deadline:
        if address_file.exists() and (address := address_file.read_text().strip()):
            try:
                probe_dashboard(url)
                return address
            except ClusterError as error:
                reason = str(error)
        time.sleep(0.2)
    if child.poll() is not None:
        reason = f"it exited with code {child.returncode}"
    tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-20:])
    raise ClusterError(
        f"A head must be ready within {_START_S:.0f} s, but {reason}. No job can run here. Its "
        f"last lines (check free memory and space in /tmp and /dev/shm):\n{tail}"
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, which also ends the head's own daemons; SIGKILL to its process group if it does not
    respond."""
    child.terminate()
    try:
        child.wait(timeout=_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def main(arguments: list[str] | None = None) -> int:
    """Run a head until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.head", description="Run a Ray head on this machine."
    )
    parser.add_argument("--num-cpus", type=int)
    parser.add_argument("--num-gpus", type=int)
    parser.add_argument("--object-store-mb", type=int)
    chosen = parser.parse_args(arguments)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with head(
            num_cpus=chosen.num_cpus,
            num_gpus=chosen.num_gpus,
            object_store_mb=chosen.object_store_mb,
        ) as running:
            print(f"address    {running.address}\ndashboard  {running.dashboard_url}", flush=True)
            print(
                f"submit     raytrain submit train config.toml --address {running.dashboard_url}",
                flush=True,
            )
            ended.wait()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
