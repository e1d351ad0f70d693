"""A sweep: Ray Tune runs the trials, TPE proposes their parameters,
a stopping rule ends the hopeless ones.

    found = sweep(config)            # the leaderboard's rows, best first
    paths = export_winner(config, found[0])

A driver needs neither torch nor a GPU: what needs them runs on workers.

The study decides what is left to do, so the same call continues after a kill, on other machines,
or with more trials.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune.error import TuneError

from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.pipeline.executor import on_ray
from raytrain.train.launch import await_room
from tuning import check as settings
from tuning import home, leaderboard, space, study
from tuning.home import Home, folder
from tuning.lease import STALE
from tuning.metrics import Metrics
from tuning.nested import train_on_workers
from tuning.progress import Progress
from tuning.search import NUMBER, PARAMETERS, Recorder, StudySearch
from tuning.stopping import StoppingRule
from tuning.trial import Reporter, Train, absolute, output, run, trial_config


def check(config: Config) -> None:
    """Raise UserError for what is wrong with a sweep and can be known before Ray starts."""
    settings.check(config)
    study.fingerprint(config)


def sweep(
    config: Config,
    train: Train | None = None,
    tell: Callable[[str], None] = print,
    stale: float = STALE,
) -> list[leaderboard.Row]:
    """Run the trials that are missing and return the leaderboard's rows, best first.

    Raises UserError where the sweep has another driver, heard of less than `stale` seconds ago,
    and KeyboardInterrupt after Ctrl-C, with the leaderboard so far written. `train` replaces the
    real training run.
    """
    check(config)
    if train is None:
        _check_workers(config, tell)
    with home.opened(config, stale) as kept:
        opened = study.open_study(config, kept)
        tell(f"Watch it with: {kept.watch}")
        before = study.finished(opened)
        if len(before) < config.tune.trials:
            _fit(config, opened, kept, before, train or train_for_real)
        found = leaderboard.rows(config, opened)
        leaderboard.write(config, found)
        if best := leaderboard.winner(found):
            leaderboard.write_winner(config, best["parameters"])
        if len(found) < config.tune.trials:
            raise KeyboardInterrupt
    return found


def _check_workers(config: Config, tell: Callable[[str], None]) -> None:
    """Raise UserError where a trial could not begin: its dataset is of another model, or on Ray of
    this machine alone it finds no room."""
    executor = on_ray()
    executor.call("raytrain.data.loading.read:check_dataset", config=config)
    await_room(config, executor, tell, "A trial's worker")


def export_winner(config: Config, best: leaderboard.Row) -> list[str]:
    """Export the best trial's weights in the formats of [export] under `<output>/tune/winner`;
    return the paths."""
    from raytrain import checkpoint
    from raytrain.export.run import export

    tree = leaderboard.winner_config(config, best["parameters"]).values()
    tree["output"] = storage.join(folder(config), "winner")
    weights = checkpoint.find(output(config, best["number"]), "latest")
    return [each.path for each in export(parse(tree), str(weights))]


def train_for_real(config: Config, report: Reporter) -> None:
    """Train in this process, or on `train.workers` separate workers."""
    if config.train.workers > 1:
        train_on_workers(config, report)
        return
    from raytrain.train.worker import train

    train(config, report)


def _fit(
    config: Config, opened: optuna.Study, kept: Home, before: Sequence[FrozenTrial], train: Train
) -> None:
    rule = StoppingRule(config.tune)
    for trial in before:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            rule.replay(str(trial.number), trial.intermediate_values)
    search = StudySearch(opened, kept, space.distributions(config))
    recorder = Recorder(opened, kept, search, rule, storage.join(folder(config), "trials"))
    tree = config.values()
    tree["output"], tree["data"]["dataset"] = absolute(config.output), absolute(config.dataset)
    tree["data"]["snapshot"] = str(
        study.manifest(config).number
    )  # a newer one may be published while trials run

    def trial_function(asked: dict[str, Any]) -> None:
        shared = parse(tree)
        parameters = space.decode(shared, asked[PARAMETERS])
        run(trial_config(shared, parameters, asked[NUMBER]), train, tune.report)

    with _quiet_tune(), tempfile.TemporaryDirectory(prefix="raytrain-sweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(trial_function, _resources(config)),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=rule,
                num_samples=config.tune.trials - len(before),
                max_concurrent_trials=config.tune.concurrent,
                reuse_actors=config.train.workers
                == 1,  # imports of torch and diffusers are paid once a slot
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                callbacks=[
                    recorder,
                    Progress(config, rule, len(before)),
                    Metrics(config, opened),
                ],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except TuneError:
            with kept.event():  # names the driver that took over, where that is why
                raise
    with kept.event():
        for number in recorder.running():
            study.release(opened, number)


def _resources(config: Config) -> dict[str, float]:
    """Return what one trial holds; with several workers these have their own resources,
    and the trial only waits."""
    if config.train.workers > 1:
        return {"memory": 1}  # Tune refuses a trial that asks for nothing
    return {"cpu": config.train.cpus_per_worker, "gpu": config.train.gpus_per_worker}


@contextmanager
def _quiet_tune() -> Iterator[None]:
    """Turn off what Tune does in addition to running trials: the study holds everything
    that has to be kept."""
    wanted = {
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of the config mean the same in a trial
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
        "TUNE_FUNCTION_THREAD_TIMEOUT_S": "20",
    }
    # Tune logs a failed trial's traceback (ours is in its folder) and misses the log files turned
    # off above.
    loggers = [logging.getLogger(f"ray.tune.{name}") for name in ("analysis", "execution", "tune")]
    saved, levels = (
        {name: os.environ.get(name) for name in wanted},
        [logger.level for logger in loggers],
    )
    os.environ.update(wanted)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
