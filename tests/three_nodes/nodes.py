"""A Ray cluster whose nodes share no disk: each lives in namespaces of its own on this machine.

A node has its own /tmp, home, working folder and processes; of the rest it sees the installed
software, which it cannot write to. The head has no CPUs, and no torch: what a driver there
imported of a model library would fail. Killing a node's first process kills all of it, as losing
a machine does.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ray

ROOT = Path(__file__).parents[2]
CPUS = 2
OBJECT_STORE = 150
"""MiB of a node."""
HEAVY = ("torch", "diffusers", "transformers", "peft", "deepspeed", "accelerate")
"""What the head does not have."""
_ENTER = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
_SETUP = """
set -eu
read -r token
kept=$(mktemp -d /var/tmp/rt-node.XXXXXX)
mount -t tmpfs tmpfs "$kept"
number=0
for path in $KEEP; do
    number=$((number + 1))
    mkdir "$kept/$number"
    mount --bind "$path" "$kept/$number"
done
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs "$HOME"
number=0
for path in $KEEP; do
    number=$((number + 1))
    mkdir -p "$path"
    mount --bind "$kept/$number" "$path"
    mount -o remount,bind,ro "$path"
done
for path in $HIDE; do
    mount -t tmpfs tmpfs "$path"
    echo 'raise ImportError("a head has no model library")' > "$path/__init__.py"
done
chmod 1777 /tmp
umask 077
mkdir /tmp/work
echo "$token" > /tmp/token
umask 022
cd /tmp/work
exec "$@"
"""


class Node:
    """A node that runs."""

    def __init__(self, command: Sequence[str], token: str, hidden: Sequence[str] = ()) -> None:
        self.command, self.token, self.hidden = command, token, hidden
        self.start()

    def start(self) -> None:
        """Start it, also anew after its end."""
        kept = {str(ROOT), sys.prefix, sys.base_prefix}
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_")
        }
        self.process = subprocess.Popen(
            [*_ENTER, "bash", "-c", _SETUP, "node", *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment
            | {
                "KEEP": " ".join(sorted(kept)),
                "HIDE": " ".join(self.hidden),
                "HOME": os.path.expanduser("~"),
                "RAYTRAIN_TOKEN_PATH": "/tmp/token",
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": "/tmp/token",
                "RAY_worker_niceness": "0",
                "RAY_USAGE_STATS_ENABLED": "0",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            },
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.token}\n")
        self.process.stdin.close()

    def kill(self) -> None:
        """Kill all of it at once, with signal 9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def end(self) -> None:
        """End it for good."""
        self.process.kill()
        self.process.wait()


class Nodes:
    """The cluster: `dashboard` takes jobs."""

    def __init__(self, workers: int) -> None:
        self.token = secrets.token_hex(16)
        site = Path(ray.__file__).parents[1]
        hidden = [str(site / name) for name in HEAVY if (site / name).is_dir()]
        head = [sys.executable, "-m", "cluster.head", "--num-cpus", "0"]
        self.head = Node([*head, "--object-store-mb", str(OBJECT_STORE)], self.token, hidden)
        address, self.dashboard = self._addresses()
        self.workers = [
            Node(_worker(address, f"127.0.0.{number + 2}"), self.token)
            for number in range(workers)
        ]

    def _addresses(self) -> tuple[str, str]:
        """Read the head's addresses, which it prints once it takes jobs."""
        assert self.head.process.stdout is not None
        found: dict[str, str] = {}
        said = []
        for line in self.head.process.stdout:
            said.append(line)
            name, _, value = line.partition(" ")
            found[name] = value.strip()
            if "dashboard" in found:
                return found["address"], found["dashboard"]
        raise RuntimeError("the head did not start:\n" + "".join(said))

    def end(self) -> None:
        """End every node."""
        for node in (*self.workers, self.head):
            node.end()


def _worker(address: str, ip: str) -> list[str]:
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={address}", "--block",
        f"--node-ip-address={ip}", f"--num-cpus={CPUS}",
        f"--object-store-memory={OBJECT_STORE * 2**20}", "--disable-usage-stats",
        "--dashboard-agent-listen-port=0", "--dashboard-agent-grpc-port=0",
        "--metrics-export-port=0",
    ]  # fmt: skip


@contextmanager
def nodes(workers: int = 2) -> Iterator[Nodes]:
    """Run a head and so many workers for the length of the block."""
    found = Nodes(workers)
    try:
        yield found
    finally:
        found.end()
