"""Connect this process to Ray: a private one by default, the surrounding cluster inside a
submitted job.

    with connect(None, num_cpus=2) as connection: ...

A laptop and a cluster run the same line. A cluster is joined only when it was named, by an
argument, by RAY_ADDRESS or by the job that runs us: Ray's own "auto" takes whatever Ray it finds
on the machine, which may be someone else's.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import auth
from cluster.errors import ClusterError
from cluster.probe import probe_ray

logger = logging.getLogger(__name__)

# A Unix socket's path holds 107 characters, and Ray adds about 75 to its temporary directory.
_LONGEST_TEMP = 30

STARTS = 5
"""How often a private Ray is started at most."""
LATE = "timed out during startup"
"""What Ray says of a node that was not ready within its 30 seconds, as on a very busy machine."""
FAILED = (ConnectionError, OSError, RuntimeError, ValueError)
"""What else Ray raises where it cannot start."""


@dataclass(frozen=True)
class Connection:
    """A live connection: where Ray's control service and its dashboard are,
    and whether this Ray is ours alone."""

    address: str
    dashboard_url: str | None
    private: bool


@contextmanager
def connect(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    object_store_mb: int | None = None,
    dashboard: bool = False,
    log_to_driver: bool = True,
) -> Iterator[Connection]:
    """Connect for the length of the block; a private Ray ends with it.

    `address`: None or "local" for a private Ray, host:port to join a cluster from one of its
    machines. `num_cpus`, `num_gpus`, `object_store_mb` and `dashboard` shape a private Ray; a
    cluster that is joined already has its own. A process that is already connected keeps its
    connection, also after the block. Raises `ClusterError`.
    """
    import ray

    if ray.is_initialized():
        yield _share(None if address is None else choose(address, os.environ))
        return
    auth.enable()
    os.environ.setdefault(
        "THP_MEM_ALLOC_ENABLE", "1"
    )  # CPU tensors in huge pages: encodes 1.15 times as fast
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # 15 by default: workers starve next to ordinary processes
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # its C++ notices reach the console and help no one
    target = choose(address, os.environ)
    common = {"logging_level": logging.WARNING, "log_to_driver": log_to_driver}
    if target is not None:
        if not inside_job(os.environ):
            probe_ray(target)
        with _session(target, address=target, **common) as connection:
            yield connection
        return
    os.environ.setdefault(
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
    )  # no cloud takes this node; saves a process a run
    with _temporary_directory() as directory:
        with _session(
            "a private Ray",
            address="local",
            _temp_dir=str(directory),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            object_store_memory=None if object_store_mb is None else object_store_mb * 2**20,
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            **common,
        ) as connection:
            yield connection


def _share(target: str | None) -> Connection:
    """The connection that this process already has, unless another cluster was asked for."""
    current = _describe()
    if target not in (None, current.address):
        raise ClusterError(
            f"A process holds one Ray connection, but it is connected to {current.address} and "
            f"{target} was asked for: work would run on the wrong cluster. Leave the first "
            "`connect` block, or use another process."
        )
    return current


def inside_job(environment: Mapping[str, str]) -> bool:
    """Whether this process was started by `ray job submit`."""
    return bool(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR") and environment.get("RAY_ADDRESS"))


def choose(address: str | None, environment: Mapping[str, str]) -> str | None:
    """The host:port to join, or None to start a private Ray.

    A submitted job runs on the cluster it was sent to, whatever its config says about a laptop;
    only an explicit host:port overrides that.
    """
    surrounding = environment.get("RAY_ADDRESS") or None
    if address in (None, "local", "auto") and inside_job(environment):
        return surrounding
    if address == "local":
        return None
    wanted = surrounding if address is None else address
    if wanted is None or wanted == "local":
        return None
    source = "RAY_ADDRESS" if address is None else "The cluster address"
    if wanted == "auto":
        raise ClusterError(
            f'{source} must name a cluster, but it is "auto": Ray would join whichever cluster it '
            "finds on this machine, perhaps another project's. Write host:port, or "
            '"local" for a private Ray.'
        )
    if "://" in wanted:
        raise ClusterError(
            f"{source} must be host:port of a Ray head when a job joins it directly, but it is "
            f"{wanted}, which takes submitted jobs. Run `raytrain submit <stage> config.toml "
            f'--address {wanted}`, or use the address "local" for a private Ray.'
        )
    return wanted


@contextmanager
def _session(name: str, **settings: Any) -> Iterator[Connection]:
    """Initialize Ray for the block.

    Only the start is translated to `ClusterError`; the block's errors are its own.
    """
    import ray

    for attempt in range(1, STARTS + 1):
        try:
            with _muted_notices():
                ray.init(**settings)
            break
        except Exception as error:  # Ray raises Exception itself where a node is late
            ray.shutdown()
            late = LATE in str(error)
            if not late and not isinstance(error, (*FAILED, ray.exceptions.RayError)):
                raise
            if late and attempt < STARTS:
                logger.warning("%s was not ready in time; retry %d", name, attempt)
                continue
            raise ClusterError(
                f"Ray must start before a job can, but {name} did not: {error}. Check free memory "
                "and space in /tmp and /dev/shm, and that the cluster runs the Ray version "
                "installed here."
            ) from error
    try:
        yield _describe()
    finally:
        ray.shutdown(wait_for_processes=True)


@contextmanager
def _muted_notices() -> Iterator[None]:
    """Keep what Ray's C++ core writes to standard error while it starts out of sight;
    what goes wrong is raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _describe() -> Connection:
    import ray

    node = ray._private.worker.global_worker.node
    url = node.webui_url
    # A driver that started its own Ray is that Ray's head; one that joined is not.
    return Connection(node.gcs_address, f"http://{url}" if url else None, private=node.is_head())


@contextmanager
def _temporary_directory() -> Iterator[Path]:
    """A short directory for one private Ray, removed at the end; kept when Ray itself failed,
    because its logs say why."""
    import ray

    base = tempfile.gettempdir()
    directory = Path(
        tempfile.mkdtemp(prefix="rt-", dir=base if len(base) <= _LONGEST_TEMP else "/tmp")
    )
    try:
        yield directory
    except ray.exceptions.RayError:
        logger.warning(
            "Ray failed; its logs are kept in %s", directory / "session_latest" / "logs"
        )
        for spilled in directory.glob("*/ray_spilled_objects*"):
            shutil.rmtree(spilled, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
