"""What every test may share: one private Ray for the session, tiny models,
and small prepared datasets."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.pipeline.executor import Job, Report, named
from raytrain.local import Machine
from raytrain.startup import before_imports

before_imports()
os.environ.setdefault("RAY_metrics_report_interval_ms", "2000")  # tests wait for its metrics


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Compute on one thread: in models this small, threads that wait for each other cost more than
    they give."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_watchdog_stays() -> Iterator[None]:
    """A run that was not closed would end this process half an hour later."""
    yield
    watching = [each for each in threading.enumerate() if each.name == "watchdog"]
    left = [each for each in watching if not each._ended.is_set()]  # type: ignore[attr-defined]
    for watchdog in left:
        watchdog.close()  # type: ignore[attr-defined]
    assert not left, "a run was not closed"


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give every test the same random numbers, whichever tests ran before it in its process."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def ray() -> Iterator[None]:
    from cluster.connect import connect
    from tests.data import servers

    servers.credentials()  # workers have the environment of this moment
    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        yield


class Here:
    """Executor in this process, where starting a worker costs nothing."""

    machine: Machine | None = None
    retries = 0

    def call(self, function: Callable[..., Any] | str, **settings: Any) -> Any:
        return named(function)(**settings)

    def compute(
        self,
        function: str,
        cpus: float,
        gpus: float,
        tell: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> Any:
        return named(function)(**settings, **({"tell": tell} if tell else {}))

    def stream(
        self, jobs: Sequence[Job], worker: Any, settings: dict[str, Any], pool: Any,
        memory: float = 0.0,
    ) -> Generator[Report, None, None]:  # fmt: skip
        stage = worker(**settings)
        for job in jobs:
            block = stage(pa.table({"job": [json.dumps(job)]}))
            yield from (json.loads(report) for report in block["report"].to_pylist())

    def lost(self, error: Exception) -> str:
        return ""

    def await_room(self, *_: object) -> None:
        """Accept any."""


@contextmanager
def workers_here() -> Iterator[None]:
    """Make preparation's workers work in this process."""
    from raytrain.data import prepare

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "chosen", lambda executor: nullcontext(executor or Here()))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return a maker (kept for the session) of a tiny model with a dataset prepared by it,
    as a config's tables."""
    made: dict[str, dict[str, Any]] = {}

    def make(family: str) -> dict[str, Any]:
        if family not in made:
            from raytrain import families
            from raytrain.data.prepare import prepare
            from raytrain.toy.draw import draw_folder

            root = tmp_path_factory.mktemp(family)
            families.load(family).tiny(str(root / "model"))
            draw_folder(root / "images", 30, style="neon", seed=3)
            tables = {
                "output": str(root / "run"),
                "model": {"family": family, "path": str(root / "model")},
                "data": {
                    "source": str(root / "images"),
                    "dataset": str(root / "dataset"),
                    "held_out": 0.2,
                    "buckets": {
                        "resolution": 64,
                        "step": 16,
                        "sizes": [[64, 64], [80, 48], [48, 80]],
                    },
                },
            }
            with workers_here():
                prepare(parse(tables))
            made[family] = tables
        return made[family]

    return make


@pytest.fixture
def run_config(world: Callable[[str], dict[str, Any]], tmp_path: Path) -> Callable[..., Config]:
    """Return a config of a short training run; keyword arguments are tables or their changes."""

    def make(family: str = "sd15", name: str = "run", **tables: dict[str, Any]) -> Config:
        train = {
            "steps": 6,
            "global_batch": 4,
            "learning_rate": 1e-2,
            "checkpoint_every": 2,
            **tables.pop("train", {}),
        }
        settings = {
            **world(family),
            "output": str(tmp_path / name),
            "method": {"name": "lora", "rank": 4},
            "sample": {"steps": 1, "max_prompts": 1},
            "evaluate": {"timesteps": 2},
            "log": {"tensorboard": False},
            "train": train,
            **tables,
        }
        return parse(settings)

    return make


def losses(config: Config) -> list[float]:
    """Return the loss of every step of a run."""
    from raytrain.log import read_metrics

    return [row["loss"] for row in read_metrics(config.output) if "loss" in row]


FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A headless chromium that records its console and its network traffic."""
    binary, driver = (
        shutil.which("chromium") or shutil.which("google-chrome"),
        shutil.which("chromedriver"),
    )
    if not binary or not driver:
        pytest.skip("no chromium and chromedriver on PATH")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(
        options=options, service=webdriver.ChromeService(driver, log_output=os.devnull)
    )
    yield window
    window.quit()
