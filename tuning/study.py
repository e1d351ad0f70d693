"""The study: the one truth about a sweep, kept where `tuning.home` says.

Whatever else a killed sweep leaves behind is ignored; a new start reads the study, calls trials
that were running `killed`, queues their parameters again and runs as many trials as are missing.
"""

from __future__ import annotations

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytrain.config import FREE_TRAIN_KEYS, Config
from raytrain.data.store.schema import Manifest
from raytrain.errors import UserError
from tuning import space
from tuning.home import Home, folder

DEFAULT = "default"
"""Mark of the trial that runs the config as it stands."""
_IDENTITY = "identity"
_KILLED = "killed"
_FREE = ("output", "cluster", "log", "export", "data", "tune")
_FIXED_TUNE = ("space", "objective", "evaluations")
"""What may change between two starts of one sweep, for it does not change a score's meaning;
what of [tune] may not."""


def open_study(config: Config, home: Home) -> optuna.Study:
    """Open the sweep's study or make it, and queue what has to run first: the default,
    and trials that were killed."""
    with home.event():
        study = optuna.create_study(
            storage=home.storage, study_name=home.name, direction="maximize", load_if_exists=True
        )
        _same_sweep(config, study)
        _queue(config, study)
    return study


def _queue(config: Config, study: optuna.Study) -> None:
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        release(study, trial.number)
    study.sampler = _sampler(config, study)
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    if config.tune.include_default and not any(
        DEFAULT in t.user_attrs for t in [*finished(study), *waiting]
    ):
        default = space.default_parameters(config)
        if set(default) == set(config.tune.space):
            study.enqueue_trial(space.encode(config, default), user_attrs={DEFAULT: True})


def release(study: optuna.Study, number: int) -> None:
    """Mark a trial that was interrupted from outside as killed,
    and queue its parameters again."""
    trial = study.get_trials(deepcopy=False)[number]
    study.set_user_attr(_KILLED, sorted({*study.user_attrs.get(_KILLED, []), number}))
    study.tell(number, state=TrialState.FAIL)
    marks = {DEFAULT: True} if trial.user_attrs.get(DEFAULT) else {}
    study.enqueue_trial(dict(trial.params), user_attrs=marks)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: completed, stopped or failed, but not killed."""
    killed = set(study.user_attrs.get(_KILLED, []))
    return [
        t
        for t in study.get_trials(deepcopy=False)
        if t.state.is_finished() and t.number not in killed
    ]


def _sampler(config: Config, study: optuna.Study) -> optuna.samplers.BaseSampler:
    tune = config.tune
    return optuna.samplers.TPESampler(
        # a resumed sweep must not draw its first points again
        seed=(tune.seed + 1_000_003 * len(study.get_trials(deepcopy=False))) % 2**32,
        n_startup_trials=min(10, max(3, tune.trials // 4)),
        constant_liar=tune.concurrent > 1,
    )


def _same_sweep(config: Config, study: optuna.Study) -> None:
    identity = _identity(config)
    known = study.user_attrs.get(_IDENTITY)
    if known is None:
        study.set_user_attr(_IDENTITY, identity)
        return
    changed = [key for key in sorted({*known, *identity}) if known.get(key) != identity.get(key)]
    if changed:
        lines = [f"  {key}: {known.get(key)!r} then, {identity.get(key)!r} now" for key in changed]
        raise UserError(
            f"The sweep in {folder(config)!r} was made with other settings, new scores would not "
            "compare:\n"
            + "\n".join(lines)
            + "\nChoose another output folder, or restore the settings to continue this sweep."
        )


def _identity(config: Config) -> dict[str, Any]:
    """Return what must be equal for two trials to be comparable, as flat dotted keys."""
    tree = config.values()
    found = {f"tune.{name}": tree["tune"][name] for name in _FIXED_TUNE}
    found["dataset"] = fingerprint(config)
    for table, content in tree.items():
        if table in _FREE:
            continue
        for key, value in content.items() if isinstance(content, dict) else [("", content)]:
            name = f"{table}.{key}" if key else table
            if name not in config.tune.space and not (table == "train" and key in FREE_TRAIN_KEYS):
                found[name] = value
    return found


def fingerprint(config: Config) -> str:
    """Return the prepared dataset's fingerprint; UserError when there is no dataset."""
    return manifest(config).fingerprint


def manifest(config: Config) -> Manifest:
    """Return the manifest of the prepared dataset that a sweep reads;
    UserError when there is none."""
    from raytrain.data.loading.read import open_manifest

    return open_manifest(config.dataset, config.data.snapshot, config.data.partial)
