"""Ask an address, quickly, whether it is a Ray that lets us in.

Ray itself retries a dead or closed address for 20 to 60 seconds and then shows a traceback. These
probes answer in milliseconds when the answer is known and in at most `PATIENCE_S` when nothing
answers.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from cluster import auth
from cluster.errors import ClusterError

PATIENCE_S = 60.0
_CONNECT_S = 5.0
_REFUSED = 3

# In a process of its own: Ray's client library cannot be interrupted while it waits, and writes to
# stderr by itself.
_ASK_RAY = f"""
import sys
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    GcsClient(address=sys.argv[1]).get_all_node_info(timeout=30)
except AuthenticationError:
    sys.exit({_REFUSED})
"""


def probe_ray(address: str) -> None:
    """Raise `ClusterError` unless a Ray head at `host:port` accepts our token."""
    _require_listener(address)
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_RAY, address],
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"--address must be the host:port of a Ray head, but {address} did not answer as one "
            f"within {PATIENCE_S:.0f} s: something else listens there. Ask `ray start --head` for "
            "its address."
        ) from None
    if answer.returncode == _REFUSED:
        raise _wrong_token(address)
    if answer.returncode != 0:
        last = answer.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ClusterError(
            f"The cluster at {address} must answer before a job starts, but the question failed: "
            f"{''.join(last)}. Check that it runs the Ray version installed here."
        )


def probe_dashboard(url: str) -> None:
    """Raise `ClusterError` unless the dashboard at `http://host:port` accepts our token."""
    parts = urlsplit(url)
    given = parts.netloc.rpartition("@")[2]
    default_port = 443 if parts.scheme == "https" else 80
    _require_listener(given if given.rpartition(":")[2].isdecimal() else f"{given}:{default_port}")
    request = urllib.request.Request(f"{url}/api/version", headers=auth.bearer())
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            body = answer.read(10_000)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise _wrong_token(url) from None
        raise _not_a_dashboard(url, f"HTTP {error.code}") from None
    except http.client.HTTPException:
        raise _not_a_dashboard(url, "an answer that is not HTTP") from None
    except (OSError, ValueError) as error:
        raise _not_a_dashboard(url, str(error)) from None
    if b"ray_version" not in body:
        raise _not_a_dashboard(url, "an answer without a Ray version")


def _require_listener(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterError(
            f"An address must be host:port, but it is {address!r}: nothing can be reached there. "
            "Write for example 10.0.0.5:6379."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ClusterError(
            f"A running cluster must listen at the address, but nothing does at {address} "
            f"({error}): no job can run. Start it (`python -m cluster.head`, `ray up "
            "cluster/aws.yaml`), forward its port (`ray dashboard cluster/aws.yaml`), or correct "
            "--address."
        ) from None


def _wrong_token(address: str) -> ClusterError:
    return ClusterError(
        f"The token must be the cluster's own, but {address} refused the one from "
        f"{auth.describe()}: this may be another project's cluster. Correct --address, or set "
        f"{auth.PATH_VARIABLE} to a copy of that cluster's token file."
    )


def _not_a_dashboard(url: str, found: str) -> ClusterError:
    return ClusterError(
        f"--address must be the address of a Ray dashboard, but {url} gave {found}: jobs cannot "
        "be sent there. The head prints its dashboard's address when it starts, usually "
        "http://127.0.0.1:8265."
    )
