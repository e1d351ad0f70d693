"""The only reader and writer of checkpoints: whole, atomic, readable by any engine and any number
of workers.

<output>/checkpoints/step-00000100/weights.safetensors     what learns, by public name
                                   ema.safetensors         its moving average, where one is kept
                                   optimizer.safetensors   `<weight>|<state>` tensors
                                   state.json              step, metrics, config, dataset
                                                           fingerprint, commit, versions
                                   manifest.json           size of every file, written last
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from raytrain import storage
from raytrain.config import FREE_TRAIN_KEYS, Config
from raytrain.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
BEST_BY = {"held_out_loss": -1.0}
"""What `train.best_by` is by default, and was before there was such a key."""


PLACE = ("model.path", "model.revision", "model.variant", "model.vae")
"""Where the base's files are: another place of the same weights is the same run."""


@dataclass(frozen=True)
class Checkpoint:
    """A training run at one step."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    """`step`, `metrics`, `measured` (the step of each metric), `config`, `dataset`, `base`,
    `commit`, `versions`."""
    ema: dict[str, Tensor] | None = None

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])


@dataclass(frozen=True)
class Learned:
    """What had been learned at a checkpoint."""

    folder: str
    weights: dict[str, Tensor]
    state: dict[str, Any]
    ema: bool
    """Whether the weights are the moving average."""


class DeletedError(UserError):
    """A checkpoint that is no longer there: a run has gone on and keeps its last ones."""

    def __init__(self, folder: str) -> None:
        super().__init__(
            f"The checkpoint {folder!r} was deleted while it was read: a run in its folder goes "
            "on and keeps the last train.keep_checkpoints. Nothing was made of it; run the same "
            "command again."
        )


def save(
    run: str, checkpoint: Checkpoint, keep: int, best_by: Mapping[str, float] = BEST_BY
) -> str:
    """Write a checkpoint whole or not at all, then delete all but the last `keep` and the best;
    returns its folder."""
    folder = storage.join(run, FOLDER, f"step-{checkpoint.step:08d}")
    with storage.atomic(folder) as temporary:
        os.makedirs(temporary)
        _save_tensors(checkpoint.weights, temporary, "weights")
        _save_tensors(checkpoint.optimizer, temporary, "optimizer")
        if checkpoint.ema is not None:
            _save_tensors(checkpoint.ema, temporary, "ema")
        Path(temporary, "state.json").write_text(
            json.dumps(checkpoint.state, indent=2, sort_keys=True, default=str)
        )
        sizes = {
            name: os.path.getsize(os.path.join(temporary, name))
            for name in sorted(os.listdir(temporary))
        }
        Path(temporary, MANIFEST).write_text(json.dumps({"files": sizes}, indent=2))
    folders = listing(run)
    best = _best(folders, best_by)
    for old in folders[:-keep]:
        if old != best:
            _delete(old)
    return folder


class Saver:
    """Writes a run's checkpoints in a thread, one at a time, so that training does not wait for
    the disk.

    A write that failed raises at the next call. What is not closed is still written before the
    process ends normally.
    """

    def __init__(self, run: str, keep: int, best_by: Mapping[str, float]) -> None:
        self._run, self._keep, self._best_by = run, keep, best_by
        whole = set(listing(run))
        for name in storage.names(storage.join(run, FOLDER)):
            folder = storage.join(run, FOLDER, name)
            if (
                name.startswith("step-") and folder not in whole
            ):  # left by a process that was killed
                storage.remove(folder)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[dict[str, float]] | None = None

    def save(self, checkpoint: Checkpoint) -> dict[str, float]:
        """Wait for the earlier write, then start this one; its tensors must not change any more.

        Returns as `wait` does.
        """
        earlier = self.wait()
        self._writing = self._thread.submit(self._write, checkpoint)
        return earlier

    def wait(self) -> dict[str, float]:
        """Return when nothing is left to write: what the write cost, as metrics;
        nothing when there was none.

        Raises what writing raised, such as UserError for a full disk.
        """
        writing, self._writing = self._writing, None
        return writing.result() if writing is not None else {}

    def close(self) -> dict[str, float]:
        """Wait and end the thread. Returns as `wait` does."""
        try:
            return self.wait()
        finally:
            self._thread.shutdown()

    def _write(self, checkpoint: Checkpoint) -> dict[str, float]:
        began = time.perf_counter()
        folder = save(self._run, checkpoint, self._keep, self._best_by)
        sizes = storage.read_json(storage.join(folder, MANIFEST))["files"]
        return {
            "checkpoint_seconds": time.perf_counter() - began,
            "checkpoint_mb": sum(sizes.values()) / 2**20,
        }


def copied(tensor: Tensor) -> Tensor:
    """Return a copy on the CPU, which the next step does not change."""
    return tensor.detach().to("cpu", copy=True)


def load(folder: str) -> Checkpoint:
    """Read a checkpoint."""
    return Checkpoint(
        weights=_load_tensors(folder, "weights"),
        optimizer=_load_tensors(folder, "optimizer"),
        ema=_load_tensors(folder, "ema")
        if storage.exists(storage.join(folder, "ema.safetensors"))
        else None,
        state=read_state(folder),
    )


def learned(run: str, which: str = "latest", *, ema: bool = False) -> Learned | None:
    """Read what had been learned at a run's `latest` or `best` checkpoint or the given one's
    folder, the moving average where requested and kept; None for `base`.

    All is read here, and a newer one where a run that goes on deletes it meanwhile, so that what
    takes long afterwards needs none of its files. Raises UserError as `find` does.
    """
    missed = ""
    while True:
        try:
            folder = find(run, which)
            if folder is None:
                return None
            average = ema and storage.exists(storage.join(folder, "ema.safetensors"))
            weights = _load_tensors(folder, "ema" if average else "weights")
            return Learned(folder, weights, read_state(folder), average)
        except DeletedError as error:
            if str(error) == missed:  # nothing newer has come: a file of it is lost
                raise
            missed = str(error)


def read_state(folder: str) -> dict[str, Any]:
    """Read a checkpoint's facts without its tensors."""
    try:
        state: dict[str, Any] = storage.read_json(storage.join(folder, "state.json"))
    except FileNotFoundError as error:
        raise DeletedError(folder) from error
    return state


def listing(run: str) -> list[str]:
    """Return the folders of a run's whole checkpoints, oldest first;
    unfinished ones are not listed."""
    root = storage.join(run, FOLDER)
    folders = [
        storage.join(root, name)
        for name in storage.names(root)
        if name.startswith("step-") and "." not in name
    ]
    return [folder for folder in folders if storage.exists(storage.join(folder, MANIFEST))]


def find(run: str, which: str = "latest") -> str | None:
    """Return the folder of the `latest` or `best` checkpoint, None for `base`,
    or the given folder itself.

    Best is what the run's `train.best_by` says. Raises UserError when there is no such checkpoint.
    """
    if which == "base":
        return None
    if which not in ("latest", "best"):
        if not storage.exists(storage.join(which, MANIFEST)):
            raise UserError(
                f"{which!r} is no whole checkpoint. Give latest, best, base or a checkpoint's "
                "folder."
            )
        return which
    folders = listing(run)
    if not folders:
        raise UserError(
            f"{run!r} holds no checkpoint yet. Run `raytrain train` with the same config first."
        )
    if which == "latest":
        return folders[-1]
    return _best(folders, read_state(folders[-1])["config"]["train"].get("best_by", BEST_BY))


def go_back(run: str, which: str) -> str | None:
    """Make `best` or a checkpoint's folder (also another run's) the latest of a run,
    and return a line that says so.

    Later checkpoints and the mark of a finished run are deleted; training continues from there.
    None where nothing changed.
    """
    folder = find(run, which)
    if folder is None:
        raise UserError(
            "A run continues from a checkpoint; for a start from the base model give another "
            "`output`."
        )
    step = int(read_state(folder)["step"])
    own = storage.join(run, FOLDER, f"step-{step:08d}")
    if storage.resolve(folder)[1] != storage.resolve(own)[1]:
        with storage.atomic(own) as temporary:
            os.makedirs(temporary)
            for name in sorted(storage.names(folder), key=lambda name: name == MANIFEST):
                Path(temporary, name).write_bytes(storage.read_bytes(storage.join(folder, name)))
    later = [each for each in listing(run) if each > own]
    for each in later:
        _delete(each)
    ended = storage.join(run, "train.json")
    if not later and not storage.exists(ended):
        return None
    storage.remove(ended)
    return f"Going on from {folder}, step {step}; {len(later)} later checkpoints were deleted."


LENGTH = ("train.steps", "train.epochs")


def check_same_run(
    state: dict[str, Any], config: Config, fingerprint: str, folder: str, base: str | None = None
) -> None:
    """Raise UserError when a checkpoint was made with settings, data or base weights that a
    resumed run would contradict.

    The base is its weights' hash `base`, not its path; None: it is not compared here. A checkpoint
    of an earlier version has none, and is held to the path.
    """
    new = _identity(config.values())
    # A checkpoint of an earlier version knows nothing of keys that came later: it was made as
    # their defaults have it.
    old = _identity(config.defaults().values()) | _identity(state["config"])
    free = LENGTH if _any_length(old) and _any_length(new) else ()
    if "base" in state:
        free = (*free, *PLACE)
    differences = [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and key not in free
    ]
    if base is not None and state.get("base", base) != base:
        differences.append(
            f"base weights of {config.model.path!r}: {state['base'][:12]} -> {base[:12]}"
        )
    if state["dataset"] != fingerprint:
        differences.append(f"dataset: {state['dataset'][:12]} -> {fingerprint[:12]}")
    if differences:
        raise UserError(
            f"A run continues only with the settings it started with; {folder!r} differs in "
            f"{'; '.join(differences)}. Nothing was changed. Restore the old values to continue, "
            "or choose another `output` to start a new run. (A run can be made longer where its "
            "rate is constant and no key is a share of its steps.)"
        )


def elsewhere(state: dict[str, Any], config: Config) -> bool:
    """Tell whether a config names the base at another place than a checkpoint's run did."""
    old, new = _identity(state["config"]), _identity(config.values())
    return any(old.get(key) != new.get(key) for key in PLACE)


def _identity(tree: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is made of, by key."""
    flat = {"seed": tree["seed"], "data.repeats": tree["data"]["repeats"]}
    flat["data.captions.dropped"] = tree["data"].get("captions", {}).get("dropped", "empty")
    for table in ("model", "method", "objective", "train"):
        flat |= {f"{table}.{key}": value for key, value in tree[table].items()}
    return {
        key: value
        for key, value in flat.items()
        if key.removeprefix("train.") not in FREE_TRAIN_KEYS
    }


def _any_length(identity: Mapping[str, Any]) -> bool:
    """Return whether nothing of a run depends on its length: a constant rate, and no share of all
    steps anywhere."""
    return identity["train.lr_schedule"] == "constant" and "%" not in json.dumps(identity)


def _delete(folder: str) -> None:
    storage.remove(
        storage.join(folder, MANIFEST)
    )  # first: what is killed half-way is then no checkpoint any more
    storage.remove(folder)


def _best(folders: list[str], best_by: Mapping[str, float]) -> str | None:
    """Return the checkpoint with the highest weighted sum of its own scores; of the newest at its
    time only where none has its own, as with asynchronous validation, whose scores come later."""
    own, newest = [], []
    for folder in folders:
        try:
            state = read_state(folder)
        except DeletedError:
            continue
        metrics, measured = state["metrics"], state.get("measured", {})
        if best_by.keys() <= metrics.keys():
            scored = (sum(weight * metrics[name] for name, weight in best_by.items()), folder)
            newest.append(scored)
            if all(measured.get(name, state["step"]) == state["step"] for name in best_by):
                own.append(scored)
    ranked = own or newest
    if ranked:
        return max(ranked, key=lambda each: each[0])[1]
    return folders[-1] if folders else None


def _save_tensors(tensors: dict[str, Tensor], folder: str, name: str) -> None:
    from safetensors.torch import save_file

    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    try:
        save_file(contiguous, os.path.join(folder, f"{name}.safetensors"))
    except (
        SafetensorError
    ) as error:  # hides the system's error number in its text; storage knows what a full disk is
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _load_tensors(folder: str, name: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(
            storage.fetch(storage.join(folder, f"{name}.safetensors"))
        )
    except FileNotFoundError as error:
        raise DeletedError(folder) from error
    return tensors
