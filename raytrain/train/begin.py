"""Whether a training run may start or continue, before anything of it is changed."""

from __future__ import annotations

from typing import Any

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.data.loading.read import check_dataset
from raytrain.data.store import drift
from raytrain.errors import UserError
from raytrain.model import base_hash
from raytrain.train.guards import beforehand, out_of_memory, stop
from raytrain.train.order import finished, pinned, total_steps


def begin(config: Config, resume: str) -> dict[str, Any]:
    """Check a run and bring its folder to where it goes on from.

    Returns `said`, what a user is to know; `steps`, of the whole run; and `result`, of a run that
    has no step left, else None. Raises UserError before anything is changed.
    """
    beforehand.check(config)
    folder = None
    if resume != "latest" or checkpoint.listing(config.output):
        folder = checkpoint.find(config.output, resume)
    state = checkpoint.read_state(folder) if folder else None
    total = total_steps(config)
    if folder and state:
        _check_same(config, folder, state, total)
    said = []
    if told := drift.note(check_dataset(config).settings, config.data.model_dump(mode="json")):
        said.append(f"note: {told}")
    if resume != "latest" and (back := checkpoint.go_back(config.output, resume)):
        said.append(back)
    result = None
    ended = storage.join(config.output, "train.json")
    if finished(config):
        result = dict(storage.read_json(ended))
        if result["step"] >= total:
            said.append(
                f"{config.output} is already trained; its result is kept. Train longer, or choose "
                "another output to train again."
            )
            return {"said": said, "steps": total, "result": result}
        said.append(
            f"{config.output} was trained to step {result['step']}; it goes on to {total}."
        )
        storage.remove(ended)
    stop.forget(config.output)
    out_of_memory.forget(config.output)
    return {"said": said, "steps": total, "result": None}


def _check_same(config: Config, folder: str, state: dict[str, Any], total: int) -> None:
    """Raise UserError unless a checkpoint is of this run, and of no later step than its last."""
    started_with = check_dataset(pinned(config, state)).fingerprint
    # the worker compares it in any case; here before anything is changed
    base = base_hash(config) if checkpoint.elsewhere(state, config) else None
    checkpoint.check_same_run(state, config, started_with, folder, base)
    if state["step"] > total:
        raise UserError(
            f"{folder!r} is of step {state['step']}, and a run of {total} steps cannot go on "
            "from there. Nothing was changed. Train longer, or choose another `output`."
        )
