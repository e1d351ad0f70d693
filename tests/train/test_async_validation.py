"""Images and scores of the validation actor equal those of the run itself,
and its failures are reported."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.render.progress import Terminal
from raytrain import storage
from raytrain.config import Config
from raytrain.errors import UserError
from raytrain.log import read_metrics
from raytrain.toy import CLIP
from raytrain.train import worker
from raytrain.train.hooks import async_validation
from raytrain.train.hooks.async_validation import AsyncValidation, Made
from raytrain.train.launch import launch
from tests.conftest import losses

SCORERS = ("clip_text", "diversity", "held_out_loss")
TABLES: dict[str, Any] = {
    "sample": {"steps": 2, "max_prompts": 2},
    "evaluate": {"clip": str(CLIP), "scorers": list(SCORERS), "timesteps": 1},
}
TRAIN = {"sample_every": 2, "score_every": 3, "held_out_every": 0, "steps": 4}


def files(config: Config) -> dict[str, bytes]:
    """Every file of a run's samples."""
    root = Path(config.output, "samples")
    return {
        str(file.relative_to(root)): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def scored(config: Config) -> dict[tuple[int, str], float]:
    """Every score of a run by step and name; one is measured once."""
    rows = [
        (row["step"], name, row[name])
        for row in read_metrics(config.output)
        for name in SCORERS
        if name in row
    ]
    assert len({row[:2] for row in rows}) == len(rows)
    return {(step, name): value for step, name, value in rows}


def after_each_turn(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[AsyncValidation, int], None]
) -> None:
    real = AsyncValidation.turn

    def turn(self: AsyncValidation, run: Any) -> None:
        real(self, run)
        call(self, run.step)

    monkeypatch.setattr(AsyncValidation, "turn", turn)


def test_the_actor_makes_what_the_run_would_make(
    ray: None, run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = run_config(name="inside", train=TRAIN, **TABLES)
    expected = worker.train(inside)
    config = run_config(name="async", train={**TRAIN, "async_validation": True}, **TABLES)
    after_each_turn(
        monkeypatch, lambda own, step: own._take(wait=True)
    )  # these steps are too short for the actor
    assert worker.train(config) == expected
    assert losses(config) == losses(inside)
    assert files(config) == files(inside)
    assert scored(config) == scored(inside)
    assert {step for step, name in scored(config) if name == "clip_text"} == {3, 4}
    assert not async_validation.notes(config.output)


@pytest.mark.slow
def test_a_failure_on_the_actor_is_reported_and_training_ends_well(
    ray: None, run_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    """From inside the workers' placement group, which has no place for the actor."""
    evaluate = {**TABLES["evaluate"], "clip": "no/such/model"}
    train = {
        **TRAIN,
        "sample_every": 100,
        "async_validation": True,
        "workers": 2,
        "cpus_per_worker": 0.5,
    }
    config = run_config(train=train, **{**TABLES, "evaluate": evaluate})
    result = launch(config, show=Terminal())
    assert result["step"] == 4
    assert storage.exists(storage.join(config.output, "train.json"))
    assert "step-00000004/grid.png" in files(config)  # the images came before the scores
    told = capsys.readouterr().out
    assert "note: The images or scores of step " in told
    assert "no/such/model" in told


def test_a_dead_actor_is_reported_and_replaced(
    ray: None, run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray as ray_

    config = run_config(train={**TRAIN, "score_every": 0, "async_validation": True}, **TABLES)

    def kill(own: AsyncValidation, step: int) -> None:
        if step == 0:
            while own._actor is None:
                time.sleep(0.01)
            ray_.kill(own._actor)
        own._take(wait=True)

    after_each_turn(monkeypatch, kill)
    worker.train(config)
    assert {name[:13] for name in files(config)} == {"step-00000002", "step-00000004"}
    (note,) = async_validation.notes(config.output)
    assert note.startswith("The images or scores of step 0 are missing: ActorDiedError")


def test_one_waits_and_a_newer_replaces_it(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(train={"sample_every": 1, "async_validation": True}, **TABLES)
    free = threading.Event()

    def ask(self: AsyncValidation, request: Any) -> Made:
        free.wait()
        return Made(None, {"clip_text": float(request.step)})

    monkeypatch.setattr(async_validation, "_check_room", lambda *facts: None)
    monkeypatch.setattr(AsyncValidation, "_ask", ask)
    after_each_turn(monkeypatch, lambda own, step: free.set() if step == 6 else None)
    result = worker.train(config)
    assert {key: value for key, value in scored(config).items() if key[1] == "clip_text"} == {
        (0, "clip_text"): 0.0,
        (6, "clip_text"): 6.0,
    }
    assert result["clip_text"] == 6.0
    (note,) = async_validation.notes(config.output)
    assert note.startswith(
        "The images or scores of step 1, 2, 3, 4, 5 are missing: the actor was still busy"
    )


def test_an_exception_of_the_run_does_not_wait(
    ray: None, run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(train={**TRAIN, "async_validation": True}, **TABLES)
    real = worker.optimizer_step

    def step(run: Any, *rest: Any) -> Any:
        if run.step == 1:
            raise RuntimeError("broken")
        return real(run, *rest)

    monkeypatch.setattr(worker, "optimizer_step", step)
    with pytest.raises(RuntimeError, match="broken"):
        worker.train(config)
    assert not files(config), "it waited for the images of step 0"


def test_notes_of_steps_that_are_done_again_are_dropped(run_config: Callable[..., Config]) -> None:
    config = run_config()
    uri = storage.join(config.output, async_validation.NOTES)
    for step, kept in ((4, {"0": "a", "3": "b"}), (0, {})):
        storage.write_json(uri, {"0": "a", "3": "b", "5": "b"})
        assert async_validation._kept(SimpleNamespace(config=config, step=step)) == kept  # type: ignore[arg-type]
        assert storage.read_json(uri) == kept


def test_without_room_for_the_actor(ray: None, run_config: Callable[..., Config]) -> None:
    for key in ("async_validation_cpus", "async_validation_gpus"):
        config = run_config(train={**TRAIN, "async_validation": True, key: 3})
        with pytest.raises(
            UserError, match=rf"train\.{key} = 3 must be free in addition .* wait forever"
        ):
            worker.train(config)


def test_without_ray(run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    config = run_config(train={**TRAIN, "async_validation": True})
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(UserError, match=r"train\.async_validation = true .* not connected to Ray"):
        worker.train(config)
