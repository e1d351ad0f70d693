"""One trial: a whole training run inside Ray Tune's actor, on the shared dataset, reporting each evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from raytrain import storage
from raytrain.config import Config
from raytrain.configfile import parse
from raytrain.data import schema
from tuning import objective, space
from tuning.stopping import EVALUATION, LAST, OBJECTIVE

Report = Callable[[dict[str, float]], None]
Train = Callable[[Config, Report], Mapping[str, Any]]
"""A training run: calls its second argument with `step` and the scores at every evaluation; returns the last ones."""


def trial_config(config: Config, parameters: Mapping[str, Any], number: int) -> Config:
    """Return a trial's config: its parameters, its own output folder, the shared dataset, evenly spaced evaluations."""
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
    )
    return parse(tree)


def output(config: Config, number: int) -> str:
    """Return the output folder of a trial."""
    return storage.join(absolute(config.output), "tune", "trials", str(number))


def absolute(uri: str) -> str:
    """Return a local path as an absolute one, for workers run in another folder; a URI stays as it is."""
    return storage.resolve(uri)[1] if storage.is_local(uri) else uri


def total_steps(config: Config) -> int:
    """Return how many steps a run of this config takes on its dataset."""
    if config.train.steps is not None:
        return config.train.steps
    from raytrain.train.run import ledger_of

    manifest = schema.Manifest.model_validate(storage.read_json(storage.join(config.dataset, schema.MANIFEST)))
    return ledger_of(config, {name: count.train for name, count in manifest.buckets.items()}).total_steps


def run(config: Config, train: Train, send: Callable[[dict[str, Any]], None]) -> None:
    """Train with an already made trial config and `send` the objective at every evaluation, and at the end."""
    started = time.monotonic()
    steps = total_steps(config)
    evaluation = last_step = 0

    def report(metrics: Mapping[str, Any]) -> None:
        nonlocal evaluation, last_step
        evaluation, last_step = evaluation + 1, int(metrics["step"])
        scores = {k: float(v) for k, v in metrics.items() if k != "step" and isinstance(v, int | float)}
        value = objective.value(scores, config.tune.objective)
        send(
            {
                OBJECTIVE: value if math.isfinite(scores.get("loss", 0.0)) else objective.WORST,
                EVALUATION: evaluation,
                LAST: last_step >= steps,
                "step": last_step,
                "scores": scores,
                "seconds": time.monotonic() - started,
            }
        )

    final = train(config, report)
    if int(final.get("step", steps)) > last_step:
        report({"step": steps, **final})
