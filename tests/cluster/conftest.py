"""One real head for all tests of this folder, with a token file of its own,
and a small project to submit to it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

import cluster
from cluster import auth
from cluster.head import head

RAY_VARIABLES = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
)

PROBE_JOB = """
import sys, time
from pathlib import Path
from cluster.connect import connect

config = Path(sys.argv[1]).read_text()
print("config", sys.argv[1], config.strip(), flush=True)
print("overrides", sys.argv[2:], flush=True)
if "fail" in config:
    sys.exit(7)
if "wait" in config:
    try:
        print("waiting", flush=True)
        time.sleep(3600)
    except KeyboardInterrupt:
        print("cleaned up", flush=True)
        sys.exit(130)
with connect("local", num_cpus=1) as connection:
    import ray

    print("joined", connection.address, connection.private, flush=True)
    print("task", ray.get(ray.remote(lambda: __import__("cluster").__name__).remote()), flush=True)
"""


@pytest.fixture(scope="package", autouse=True)
def own_token(tmp_path_factory):
    """A token file for these tests alone, unless this process already holds a Ray connection with
    its token."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        yield
        return
    before = dict(os.environ)
    for name in RAY_VARIABLES:
        os.environ.pop(name, None)
    os.environ[auth.PATH_VARIABLE] = str(tmp_path_factory.mktemp("token") / "token")
    os.environ["PYTHONPATH"] = str(Path(cluster.__file__).parent.parent)
    yield
    for name in (*RAY_VARIABLES, auth.PATH_VARIABLE, "PYTHONPATH"):
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]


@pytest.fixture(scope="package")
def running_head(own_token):
    with head(num_cpus=2, object_store_mb=100) as running:
        yield running


@pytest.fixture
def project(tmp_path):
    """A checkout in small: our real `cluster`, and `jobs.probe` beside it."""
    folder = tmp_path / "project"
    for package in ("raytrain", "tuning", "jobs"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    shutil.copytree(
        Path(cluster.__file__).parent,
        folder / "cluster",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (folder / "jobs" / "probe.py").write_text(PROBE_JOB)
    return folder


@pytest.fixture
def config(tmp_path):
    """Write a config outside the project and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "outside" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write
