"""Metrics for Prometheus: what the Grafana board names is there, and moves, while work goes on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from raytrain import telemetry
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.config.unread import unread
from raytrain.data.prepare import prepare
from raytrain.log import MetricLog
from raytrain.startup import in_ray
from raytrain.telemetry import METRICS, SECONDS, label
from raytrain.train import worker
from tests.conftest import workers_here
from tests.tuning import fake
from tuning.sweep import sweep

ROOT = Path(__file__).parents[1]
BOARD = json.loads((ROOT / "infra" / "grafana.json").read_text())
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}")
RAYS = {"SessionName", "NodeAddress", "WorkerId", "Component", "Version"}
"""Labels that Ray gives every metric of a worker (seen at its port)."""
OURS = "ray_raytrain_"
LIMIT = 300.0
RUN = "scraped"
"""What the labels of the test's own runs begin with."""
"""Seconds until what must come has to be there."""


def named() -> Iterator[tuple[str, set[str], dict[str, str]]]:
    """Yield each metric of ours on the board as the module calls it, the labels it is asked for,
    and the panel's target."""
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            for name, matchers in SELECTOR.findall(target["expr"]):
                if "raytrain" in name:
                    yield name.removeprefix("ray_"), set(re.findall(r"(\w+)=~", matchers)), target


def test_the_board_shows_the_metrics_that_there_are() -> None:
    found = list(named())
    assert {name for name, *_ in found} == METRICS.keys()
    for name, asked, target in found:
        labels = {"run", *METRICS[name].labels}
        grouped = re.search(r"by \(([^)]*)\)", target["expr"])
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert {"SessionName", "run"} <= asked <= labels | RAYS
        assert shown == (labels if grouped is None else set(grouped[1].split(", ")) & labels)
        assert METRICS[name].counter == ("rate(" in target["expr"])
        assert METRICS[name].counter == name.endswith("_total")


def test_a_run_is_called_by_its_folder_and_a_trial_by_its_sweep() -> None:
    assert label("runs/fox/") == "fox"
    assert label("s3://b/runs/fox?endpoint_override=h:1&scheme=http") == "fox"
    assert label("/data/runs/fox/tune/trials/3") == "fox/3"


def test_without_ray_nothing_imports_it() -> None:
    script = """
import sys
from raytrain.config.file import parse
from raytrain.telemetry import Telemetry
told = Telemetry(parse({"output": "x", "model": {"path": "m"}}))
told.add("raytrain_prepare_rows_total", 1, stage="scan")
told.keep("raytrain_train_loss", 1.0)
told.write()
print(told.due(), "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          cwd=ROOT, check=True)  # fmt: skip
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, True),
        ({"train": {"workers": 2}}, False),
        ({"data": {"encode": {"workers": 2}}}, False),
        ({"tune": {"space": {"train.learning_rate": {"log": [1e-4, 1e-2]}}}}, False),
        ({"cluster": {"address": "10.0.0.1:6379"}}, False),
    ],
)
def test_the_key_is_told_to_have_no_effect_where_no_ray_is_used(
    table: dict[str, Any], told: bool
) -> None:
    tree = {"output": "x", "model": {"path": "m"}, "log": {"metrics": False}, **table}
    assert any(line.startswith("log.metrics = False") for line in unread(parse(tree))) == told


@pytest.mark.parametrize("wanted", [True, False])
def test_gauges_are_set_once_in_seconds_however_many_steps_there_are(
    wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, told = [0.0], []

    def gauge(name: str, *_: Any) -> Any:
        return SimpleNamespace(set=lambda value, labels: told.append((name, value, labels)))

    monkeypatch.setattr(telemetry, "in_ray", lambda: True)
    monkeypatch.setattr("ray.util.metrics.Gauge", gauge)
    settings = {"tensorboard": False, "metrics": wanted}
    tables = {"output": str(tmp_path / "run"), "model": {"path": "m"}, "log": settings}
    log = MetricLog(parse(tables), 0, lambda: now[0])
    for step in range(1, 2001):
        now[0] = step * SECONDS / 1000
        log.metrics(step, {"loss": float(step % 2), "epoch": 0.0})
        if step % 10 == 0:
            log.send()
    written = [(name.removeprefix("raytrain_train_"), value) for name, value, _ in told]
    if wanted:
        assert [name for name, _ in written].count("memory_peak_bytes") == 2, "in 10 s of steps"
        assert written[-2:] == [("step", 1000), ("loss", 0.5)]
        assert told[-1][2] == {"run": "run"}
    log.close()
    assert (("raytrain_train_step", 2000, {"run": "run"}) in told) == wanted, "the end, at once"
    assert bool(told) == wanted


class Scraper(threading.Thread):
    """Reads a node's metrics port again and again; keeps every value of each series."""

    def __init__(self, url: str) -> None:
        super().__init__(name="scraper", daemon=True)
        self._url, self._ended, self._new = url, threading.Event(), threading.Condition()
        self.values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        """By name, and by the values of the labels of ours after `run`."""

    def run(self) -> None:
        """Read until the end."""
        while not self._ended.wait(0.3):
            with urllib.request.urlopen(self._url, timeout=60) as answer:
                lines = [line for line in answer.read().decode().splitlines() if OURS in line]
            with self._new:
                for family in text_string_to_metric_families("\n".join(lines) + "\n"):
                    for sample in family.samples:
                        if not sample.labels["run"].startswith(RUN):
                            continue  # of another test in this Ray
                        name = sample.name.removeprefix("ray_")
                        own = "".join(sample.labels[key] for key in METRICS[name].labels)
                        seen = self.values[name, own]
                        if not seen or seen[-1] != sample.value:
                            seen.append(sample.value)
                self._new.notify_all()

    def until(self, name: str, value: float, labels: str = "") -> None:
        """Wait until a series has had a value."""
        with self._new:
            came = self._new.wait_for(lambda: value in self.values[name, labels], LIMIT)
        assert came, f"{name} {labels} never became {value}: {dict(self.values)}"

    def end(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join(60)


@pytest.fixture
def scraper(ray: None) -> Iterator[Scraper]:
    from ray import nodes

    node = nodes()[0]
    found = Scraper(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
    found.start()
    yield found
    found.end()


def wait_for(file: Path) -> None:
    """Return when a file is there."""
    began = time.monotonic()
    while not file.exists():
        assert time.monotonic() - began < LIMIT, f"{file} never came"
        time.sleep(0.05)


def train_trial(config: Config, report: Callable[[dict[str, float]], None]) -> None:
    """Report a loss of 1 as the first trial; as the second, once the test has seen that, of
    0.5."""
    trial = Path(config.output)
    if trial.name == "1":
        wait_for(trial.parents[2] / "seen")
    report({"step": 40, "held_out_loss": 1.0 - 0.5 * float(trial.name), "clip_text": 0.0})


@pytest.mark.slow  # half a minute, in which Ray sends its numbers every two seconds
def test_every_metric_of_the_board_is_scraped_and_moves(
    scraper: Scraper, run_config: Callable[..., Config], tmp_path: Path
) -> None:
    import ray

    assert ray.get(ray.remote(in_ray).remote()), "a worker of Ray tells its numbers too"
    train = {"checkpoint_every": 2, "log_every": 1}
    tables = run_config(name=RUN, train=train).values()
    for number in (1, 2):
        tables["data"]["dataset"] = str(tmp_path / f"dataset-{number}")
        with workers_here():
            prepare(parse(tables))
        scraper.until("raytrain_prepare_rows_total", 30.0 * number, "scan")
    for steps in (2, 4):
        tables["train"]["steps"] = steps
        worker.train(parse(tables))
        scraper.until("raytrain_train_step", float(steps))

    swept = fake.make_config(tmp_path / "sweep", trials=2, concurrent=1, stopper="none",
                             evaluations=1, include_default=False)  # fmt: skip
    swept = swept.model_copy(update={"output": str(tmp_path / f"{RUN}-sweep")})

    def look() -> None:
        scraper.until("raytrain_tune_trials", 1.0, "completed")
        scraper.until("raytrain_tune_trials", 1.0, "running")
        (Path(swept.output) / "seen").touch()

    looking = threading.Thread(target=look)
    looking.start()
    sweep(swept, train_trial)
    looking.join()
    scraper.until("raytrain_tune_trials", 2.0, "completed")
    scraper.until("raytrain_tune_trials", 0.0, "running")
    scraper.until("raytrain_tune_best_objective", -0.5)
    scraper.end()

    seen = {name: series for (name, _), series in scraper.values.items() if len(series) > 1}
    assert {name for name, _ in scraper.values} == METRICS.keys()
    moving = METRICS.keys() - {"raytrain_train_memory_peak_bytes"}
    assert moving <= seen.keys(), "a metric never moved"
    assert max(scraper.values["raytrain_train_memory_peak_bytes", "host"]) > 2**26
    assert all(0 <= each <= 1 for each in scraper.values["raytrain_train_data_stall_ratio", ""])
    assert min(scraper.values["raytrain_train_images_per_second", ""]) > 0
