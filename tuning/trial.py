"""One trial: a whole training run inside Ray Tune's actor, on the shared dataset,
reporting each evaluation."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import Diverged
from tuning import objective, space
from tuning.stopping import EVALUATION, LAST, OBJECTIVE

Train = Callable[[Config, "Reporter"], object]
"""A training run: calls its second argument with `step` and the scores at every evaluation,
the last step's too."""


def trial_config(config: Config, parameters: Mapping[str, Any], number: int) -> Config:
    """Return a trial's config: its parameters, its own output folder, the shared dataset,
    evenly spaced evaluations."""
    changed = space.apply(config, parameters)
    steps = total_steps(changed)
    tree = changed.values()
    tree["output"] = output(config, number)
    tree["data"]["dataset"] = absolute(config.dataset)
    tree["train"].update(
        score_every=-(-steps // config.tune.evaluations),
        checkpoint_every=steps,
        keep_checkpoints=1,
        held_out_every=0,
        sample_every=0,
        async_validation=False,  # every evaluation counts, and the stopping rule waits for it
    )
    return parse(tree)


def output(config: Config, number: int) -> str:
    """Return the output folder of a trial."""
    return storage.join(absolute(config.output), "tune", "trials", str(number))


def absolute(uri: str) -> str:
    """Return a local path as an absolute one, for workers run in another folder;
    a URI stays as it is."""
    return storage.resolve(uri)[1] if storage.is_local(uri) else uri


def total_steps(config: Config) -> int:
    """Return how many steps a run of this config takes on its dataset."""
    if config.train.steps is not None:
        return config.train.steps
    from raytrain.data.loading.read import open_manifest
    from raytrain.train.order import batch_sampler_of

    manifest = open_manifest(config.dataset, config.data.snapshot, config.data.partial)
    return batch_sampler_of(
        config, {name: count.entries for name, count in manifest.buckets.items()}
    ).total_steps


class Reporter:
    """Turn a training run's evaluations into what Tune, the stopping rule and the study want to
    know, and send it."""

    def __init__(self, config: Config, steps: int, send: Callable[[dict[str, Any]], None]) -> None:
        self._weights = config.tune.objective
        self._steps = steps
        self._send = send
        self._started = time.time()
        self.evaluation = 0
        self.step = 0

    def through(self, send: Callable[[dict[str, Any]], None]) -> Reporter:
        """Return this reporter with another way to send, for another process."""
        other = copy.copy(self)
        other._send = send
        return other

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """Send one evaluation: `step` and the scores."""
        self.evaluation, self.step = self.evaluation + 1, int(metrics["step"])
        scores = {
            k: float(v) for k, v in metrics.items() if k != "step" and isinstance(v, int | float)
        }
        self._send(
            {
                OBJECTIVE: objective.value(scores, self._weights),
                EVALUATION: self.evaluation,
                LAST: self.step >= self._steps,
                "step": self.step,
                "scores": scores,
                "seconds": time.time() - self._started,
            }
        )


def run(config: Config, train: Train, send: Callable[[dict[str, Any]], None]) -> None:
    """Train with an already made trial config and `send` every evaluation;
    a diverged run sends the worst objective."""
    storage.remove(config.output)  # left behind by a sweep whose study is gone
    report = Reporter(config, total_steps(config), send)
    try:
        train(config, report)
    except Diverged:
        report({"step": report.step})
