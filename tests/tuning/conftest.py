"""One private Ray of two CPUs for all tests of this folder that run trials."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.auth import PATH_VARIABLE
from cluster.connect import connect


@pytest.fixture(scope="session")
def own_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get(PATH_VARIABLE), os.environ.get("PYTHONPATH")
    os.environ[PATH_VARIABLE] = str(tmp_path_factory.mktemp("token") / "token")
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    yield
    for name, value in zip((PATH_VARIABLE, "PYTHONPATH"), before, strict=True):
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def ray_of_two(own_token: None) -> Iterator[None]:
    with connect("local", num_cpus=2, object_store_mb=100):
        yield
