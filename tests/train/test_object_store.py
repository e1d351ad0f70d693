"""A run whose output is an object store: what it says of itself is there as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.render import progress
from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.config.period import Every
from raytrain.log import METRICS, MetricLog, read_metrics
from raytrain.train import worker
from raytrain.train.hooks import periodic
from raytrain.train.hooks.periodic import Hook
from raytrain.train.record import notices, phases, sample_log
from raytrain.train.run import Run, start
from raytrain.upload import SECONDS, Upload
from tests.data.servers import s3


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The query that names an S3 server of this machine, with a bucket `runs`."""
    with s3("runs") as (_, query):
        yield query


def logged(uri: str) -> Config:
    """Return a config that is enough for a log."""
    return parse({"output": uri, "model": {"path": "m"}, "log": {"tensorboard": False}})


def steps(output: str) -> list[int]:
    return [row["step"] for row in read_metrics(output)]


def test_rows_are_on_the_store_after_seconds_or_when_a_checkpoint_wants_them(store: str) -> None:
    config, clock = logged(f"s3://runs/rows{store}"), Clock()
    storage.write_bytes(
        storage.join(config.output, METRICS), b'{"step": 1, "loss": 1.0}\n{"step": 2}\n'
    )
    log = MetricLog(config, 1, clock)
    assert steps(config.output) == [1], "what a run forgets is forgotten there too"
    log.metrics(2, {"loss": 0.5})
    clock.now = SECONDS - 1
    log.metrics(3, {"loss": 0.25})
    assert steps(config.output) == [1]
    clock.now = SECONDS
    log.metrics(4, {"loss": 0.125})
    assert steps(config.output) == [1, 2, 3, 4]
    log.metrics(5, {"loss": 0.0625})
    assert steps(config.output) == [1, 2, 3, 4]
    log.flush()
    assert steps(config.output) == [1, 2, 3, 4, 5]
    log.metrics(6, {"loss": 0.03})
    log.close()
    assert steps(config.output) == [1, 2, 3, 4, 5, 6]


def test_copies_take_a_hundredth_of_the_time_however_slow_the_store_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, copied = Clock(), []

    def write(uri: str, content: bytes) -> None:
        clock.now += 3.0
        copied.append((uri, content))

    monkeypatch.setattr(storage, "write_bytes", write)
    (tmp_path / "log").mkdir()
    file = tmp_path / "log" / "a"
    file.write_bytes(b"1")
    (tmp_path / "log" / "latest").symlink_to(file)
    upload = Upload(str(tmp_path / "log"), "s3://b/x?region=eu", clock)
    upload.copy()
    assert copied == [("s3://b/x/a?region=eu", b"1")]
    file.write_bytes(b"22")
    clock.now = 3.0 + 299.0
    assert not upload.due()
    clock.now += 1.0
    assert upload.due()
    upload.copy()
    upload.copy()
    assert copied[1:] == [("s3://b/x/a?region=eu", b"22")], "what has not changed is not sent"


def test_what_a_run_says_is_on_the_store_before_it_ends(
    store: str, run_config: Callable[..., Config]
) -> None:
    """As a run that is killed after its checkpoint of step 2 leaves it."""
    config = run_config(
        train={"steps": 4, "sample_every": 2}, log={"tensorboard": True, "wandb": "offline"}
    ).model_copy(update={"output": f"s3://runs/live{store}"})
    at, names = config.output, lambda *parts: storage.names(storage.join(config.output, *parts))
    seen: dict[str, Any] = {}

    def look(run: Run) -> None:
        if run.step == 3:
            seen.update(
                steps=[row["step"] for row in read_metrics(at) if "loss" in row],
                samples=names("samples"),
                images=names("samples", "step-00000002"),
                told=notices.Notices(at)._seen,
                rows=sample_log.read(at, 4).num_rows,
                phases={phase.name for phase in phases.read(at)[1]},
                board=names("tensorboard"),
            )

    run = start(config, 0, 1)
    try:
        with periodic.build(run, None) as hooks:
            worker.loop(run, [*hooks, Hook("look", look, Every(1))])
    finally:
        run.close()
    assert seen["steps"] == [1, 2]
    assert seen["samples"] == ["step-00000000", "step-00000002"]
    assert set(seen["images"]) == {"000.png", "grid.png", "prompts.json"}
    assert seen["told"]
    assert seen["rows"] == 8
    assert {"load", "step", "sample", "checkpoint"} <= seen["phases"]
    assert seen["board"]
    assert [row["step"] for row in read_metrics(at) if "loss" in row] == [1, 2, 3, 4]
    kept = [file.path for file in storage.files(storage.join(at, "wandb"))]
    assert any(name.endswith(".wandb") for name in kept)


def test_the_console_follows_a_run_on_a_store(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = logged(f"s3://runs/shown{store}")
    log = MetricLog(config, 0)
    log.metrics(2, {"loss": 0.5})
    log.flush()
    shown, stop = threading.Event(), threading.Event()

    class Seen(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            """Look without a pause; the last time when the second row is there."""
            return stop.is_set()

    told = notices.Notices(config.output)
    notices.tell(config.output, "half way")
    reads: list[str] = []

    def read(output: str) -> list[dict[str, Any]]:
        reads.append(output)
        rows = read_metrics(output)
        shown.set()
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "read_metrics", read)
        thread = threading.Thread(target=progress._follow, args=(config.output, 4, told, Seen()))
        thread.start()
        assert shown.wait(60)
        log.metrics(4, {"loss": 0.25})
        log.close()
        stop.set()
        thread.join(60)
    said = capsys.readouterr().out
    assert "half way" in said
    assert "step 2/4  loss 0.5" in said
    assert "step 4/4  loss 0.25" in said
    assert len(reads) <= 4, "a file that is as it was is not read again"
