"""A Ray cluster of several nodes on this machine, whose nodes and workers can be killed -9,
each with all its processes.

The head holds no CPUs and is never killed: a cluster whose head is gone has no one to ask. The
others hold one CPU each. Ports, temporary folder and token are its own, and only processes that
descend from this one are ever killed.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from cluster import auth

ROOT = Path(__file__).parents[2]
WORKERS = 2
OBJECT_STORE = 100 * 2**20
ACTORS = ("MapWorker", "RayTrainWorker")
OTHERS = (
    "IDLE",
    "DashboardAgent",
    "RuntimeEnvAgent",
    "_StatsActor",
    "AutoscalingCoordinator",
    "ActorLocationTracker",
)
"""Workers that do none of the stage's work."""


class Nodes:
    """The cluster: `address` is what a config's `[cluster] address` names."""

    def __init__(self, cluster: Any, workers: int) -> None:
        self._cluster, self._workers, self.address = cluster, workers, str(cluster.address)

    def kill_node(self, chance: random.Random) -> str:
        """Kill -9 every process of a random node."""
        node = chance.choice(
            sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id))
        )
        for process in _processes(node):
            _kill(process)
        self._cluster.remove_node(node, allow_graceful=False)
        return f"node {str(node.node_id)[:6]}"

    def mend(self) -> None:
        """Start nodes until there are as many as before."""
        while len(self._cluster.worker_nodes) < self._workers:
            self._cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)

    def kill_worker(self, chance: random.Random) -> str | None:
        """Kill -9 one process that works for the stage: one of its actors where there are any,
        else a task; None without."""
        busy = [
            (process, title)
            for node in self._cluster.list_all_nodes()
            for process, title in _busy(node)
        ]
        actors = [found for found in busy if any(name in found[1] for name in ACTORS)]
        if not busy:
            return None
        process, title = chance.choice(actors or busy)
        _kill(process)
        return title


@contextmanager
def local_nodes(workers: int = WORKERS) -> Iterator[Nodes]:
    """Run a cluster of so many nodes beside its head for the block's length;
    nothing else of Ray on the machine is touched."""
    temporary = Path(
        tempfile.mkdtemp(prefix="rt-", dir="/tmp")
    )  # short: socket paths hold 107 characters
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        os.environ.pop(name, None)
    os.environ |= {
        auth.PATH_VARIABLE: str(temporary / "token"),
        "RAY_TMPDIR": str(temporary),
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "PYTHONPATH": str(ROOT),  # workers import the family that counts
    }
    (temporary / "ray").mkdir()
    auth.enable()
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(cluster, workers)
        nodes.mend()
        yield nodes
    finally:
        cluster.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


def _processes(node: Any) -> list[psutil.Process]:
    """Return a node's own processes and all that descend from them: its raylet,
    agents and workers."""
    found: list[psutil.Process] = []
    for infos in node.all_processes.values():
        for info in infos:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(info.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


def _busy(node: Any) -> list[tuple[psutil.Process, str]]:
    """Return a node's worker processes that do a stage's work, with the title Ray gives them
    (`ray::<task or actor>`)."""
    found = []
    for process in _processes(node):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            title = (process.cmdline() or [""])[0]
            if title.startswith("ray::") and not any(name in title for name in OTHERS):
                found.append((process, title.removeprefix("ray::").strip()))
    return found


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):  # it may have ended by itself a moment ago
        process.kill()
