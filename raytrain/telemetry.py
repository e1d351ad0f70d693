"""Numbers for Prometheus, through the Ray that this process is in; without one, nothing.

Ray shows them at its nodes' metrics ports, with `ray_` before the name. It forgets a gauge two
reports (of 10 s each) after it was last set: what has ended is no longer shown, and what goes on
sets its gauges again every few seconds, which also bounds what that costs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from raytrain import storage
from raytrain.config import Config
from raytrain.startup import in_ray

SECONDS = 5.0
"""Between two times that gauges are set."""


class Metric(NamedTuple):
    """What Prometheus is told of a metric."""

    help: str
    labels: tuple[str, ...] = ()
    """In addition to `run`."""
    counter: bool = False


METRICS = {
    "raytrain_train_step": Metric("Optimizer steps done"),
    "raytrain_train_loss": Metric("Mean training loss over the last train.log_every"),
    "raytrain_train_held_out_loss": Metric("Newest held-out loss"),
    "raytrain_train_images_per_second": Metric(
        "Images of all workers a second of training, over the last train.log_every"
    ),
    "raytrain_train_data_stall_ratio": Metric(
        "Share of training time in which the first worker waited for a batch"
    ),
    "raytrain_train_checkpoint_seconds": Metric("Seconds that writing the last checkpoint took"),
    "raytrain_train_memory_peak_bytes": Metric(
        "Most memory that the first worker held, of the host and of its GPU", ("device",)
    ),
    "raytrain_prepare_rows_total": Metric(
        "Images, or arrays of them, that a stage of preparation has done", ("stage",), counter=True
    ),
    "raytrain_tune_trials": Metric("Trials of a sweep by state", ("state",)),
    "raytrain_tune_best_objective": Metric("Best objective of a sweep's completed trials"),
}


class Telemetry:
    """The metrics of one run, preparation or sweep."""

    def __init__(self, config: Config, now: Callable[[], float] = time.monotonic) -> None:
        self._run, self._now = label(config.output), now
        self._on = config.log.metrics and in_ray()
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._made: dict[str, Any] = {}
        self._due = -math.inf

    def keep(self, name: str, value: float, **labels: str) -> None:
        """Keep a gauge's newest value for the next `write`."""
        self._gauges[name, tuple(labels.items())] = value

    def keep_row(self, row: Mapping[str, float]) -> None:
        """Keep those of a row of `metrics.jsonl` that are metrics."""
        for key, value in row.items():
            if (name := f"raytrain_train_{key}") in METRICS:
                self.keep(name, value)

    def due(self) -> bool:
        """Return whether the gauges are to be set again; never without Ray."""
        return self._on and self._now() >= self._due

    def write(self) -> None:
        """Set all gauges to their newest values."""
        self._due = self._now() + SECONDS
        if self._on:
            for (name, labels), value in self._gauges.items():
                self._metric(name).set(value, {"run": self._run, **dict(labels)})

    def add(self, name: str, count: float, **labels: str) -> None:
        """Add to a counter, at once; Ray keeps it."""
        if self._on and count > 0:
            self._metric(name).inc(count, {"run": self._run, **labels})

    def _metric(self, name: str) -> Any:
        if name not in self._made:
            from ray.util import metrics

            facts = METRICS[name]
            kind = metrics.Counter if facts.counter else metrics.Gauge
            self._made[name] = kind(name, facts.help, ("run", *facts.labels))
        return self._made[name]


def label(output: str) -> str:
    """Return what a run is called: its folder's name; a trial's, its sweep's name and its
    number."""
    name = storage.base_name(output)
    sweep, found, _ = output.partition(f"/tune/trials/{name}")
    return f"{storage.base_name(sweep)}/{name}" if found else name
