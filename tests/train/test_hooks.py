"""When hooks are due: by steps and epochs a function of the step alone,
by minutes what the first worker's clock says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raytrain.config import Config
from raytrain.config.period import Every, parse
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.log import read_metrics
from raytrain.train import worker
from raytrain.train.hooks.clock import Clock
from raytrain.train.hooks.periodic import Hook
from tests.conftest import losses
from tests.train import group


@dataclass
class At:
    """What a hook looks at."""

    step: int
    total_steps: int = 10
    batch_sampler: Any = None
    minutes: tuple[float, float] = (0.0, 0.0)


def due(every: str | int, at: At, **when: bool) -> bool:
    return Hook("x", lambda run: None, parse(every), **when).due(at)  # type: ignore[arg-type]


def test_steps() -> None:
    assert [step for step in range(11) if due(4, At(step), at_start=True)] == [0, 4, 8, 10]
    assert [step for step in range(11) if due("4 steps", At(step), at_end=False)] == [4, 8]
    assert [step for step in range(11) if due(0, At(step))] == [10]


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("batch", [4, 7, 50])
def test_epochs_end_with_the_last_step_that_the_batch_sampler_counts_to_them(
    every: int, batch: int
) -> None:
    batch_sampler = BatchSampler({"a": 17, "b": 5, "c": 1}, batch=batch, seed=0, epochs=8)
    turns = [batch_sampler.at(step).epoch // every for step in range(batch_sampler.total_steps)]
    ends = [step for step in range(1, batch_sampler.total_steps) if turns[step] > turns[step - 1]]
    total = batch_sampler.total_steps
    assert [s for s in range(total) if due(f"{every} epochs", At(s, total, batch_sampler))] == ends


def test_minutes() -> None:
    readings = [0.0, 0.4, 1.1, 1.9, 2.0, 5.5, 5.9]
    at = [At(3, minutes=pair) for pair in itertools.pairwise(readings)]
    assert [now.minutes[1] for now in at if due("1 minute", now)] == [1.1, 2.0, 5.5]
    assert [now.minutes[1] for now in at if due("0.5 minutes", now)] == [1.1, 1.9, 2.0, 5.5]


def test_the_clock_does_not_count_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(
        "raytrain.train.hooks.clock.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    clock = Clock()
    now[0] += 30
    with clock.paused():
        now[0] += 600
    assert clock.minutes() == 0.5
    now[0] += 15
    assert clock.minutes() == 0.75


@pytest.mark.parametrize(
    "value",
    [True, -1, 1.5, "2 epoc", "0 steps", "1.5 epochs", "2epochs", "1e3 steps", "2 epochs\n"],
)
def test_what_is_no_period(value: object) -> None:
    with pytest.raises(ValueError, match='whole number of steps, or text such as "500 steps"'):
        parse(value)


def test_what_is_a_period() -> None:
    assert [parse(value) for value in (5, "5 steps", "1 epoch", "0.25 minutes")] == [
        Every(5), Every(5), Every(1, "epochs"), Every(0.25, "minutes")
    ]  # fmt: skip


def test_two_workers_agree_on_minutes(run_config: Callable[..., Config], tmp_path: Path) -> None:
    """The held-out loss is a collective: workers that went by clocks of their own would wait for
    each other for ever."""
    tables: dict[str, Any] = {"evaluate": {"scorers": ["held_out_loss"], "timesteps": 1}}
    train = {"steps": 16, "workers": 2, "held_out_every": "0.002 minutes", "score_every": 1000}
    config = run_config(train=train, **tables)
    group.train(config, 2, tmp_path)
    rows = [row["step"] for row in read_metrics(config.output) if "held_out_loss" in row]
    assert rows[0] == 0
    assert rows[-1] == 16
    assert len(rows) > 2
    assert len(losses(config)) == 16


def test_epochs_and_the_log_of_a_run(run_config: Callable[..., Config]) -> None:
    """The held-out loss after every epoch; TensorBoard gets the mean loss of so many steps,
    the file every step's."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = run_config(
        train={
            "steps": None,
            "epochs": 2,
            "held_out_every": "1 epoch",
            "log_every": 4,
            "checkpoint_every": 1000,
        },
        log={"tensorboard": True},
    )
    worker.train(config)
    rows = read_metrics(config.output)
    last = max(row["step"] for row in rows if row.get("epoch") == 0.0)
    assert [row["step"] for row in rows if "held_out_loss" in row] == [0, last, rows[-1]["step"]]
    events = EventAccumulator(str(Path(config.output) / "tensorboard")).Reload()
    points = {event.step: event.value for event in events.Scalars("loss")}
    total = len(losses(config))
    assert list(points) == sorted({*range(4, total, 4), total})
    assert points[4] == pytest.approx(sum(losses(config)[:4]) / 4)
    assert [event.step for event in events.Scalars("held_out_loss")] == [0, last, total]


def test_images_reach_tensorboard_and_wandb(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    import numpy as np
    import wandb
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told: list[dict[str, Any]] = []
    fake = SimpleNamespace(
        log=told.append, define_metric=lambda *_, **__: None, finish=lambda: None
    )
    monkeypatch.setattr(wandb, "init", lambda **_: fake)
    config = run_config(
        train={"steps": 2, "sample_every": 1}, log={"tensorboard": True, "wandb": "offline"}
    )
    worker.train(config)
    events = EventAccumulator(str(Path(config.output) / "tensorboard")).Reload().Images("samples")
    sheets = [
        np.asarray(Image.open(Path(config.output, "samples", f"step-{n:08d}", "grid.png")))
        for n in (0, 1, 2)
    ]
    assert [event.step for event in events] == [0, 1, 2]
    sent = [row for row in told if "samples" in row]
    assert [row["step"] for row in sent] == [0, 1, 2]
    for sheet, event, row in zip(sheets, events, sent, strict=True):
        shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert np.array_equal(shown, sheet[..., :3])
        assert np.array_equal(np.asarray(row["samples"].image)[..., :3], sheet[..., :3])
