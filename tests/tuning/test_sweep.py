"""Whole sweeps under Ray Tune with a training run that takes no time."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from ray import available_resources
from ray.util import placement_group

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config import file as config_file
from raytrain.data.pipeline.executor import on_ray
from raytrain.log import read_metrics
from tests.tuning import fake
from tests.tuning.fake import calls
from tuning import home, leaderboard, nested
from tuning.home import folder
from tuning.sweep import sweep
from tuning.trial import output as trial_output

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def swept(
    ray: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, list[leaderboard.Row]]:
    """A finished sweep of 8 trials with ASHA, two at a time."""
    config = fake.make_config(tmp_path_factory.mktemp("swept"))
    return config, sweep(config, fake.train)


def load(config: Config) -> optuna.Study:
    return optuna.load_study(study_name=home.NAME, storage=home.url(config))


def test_every_trial_is_in_the_study_once_with_its_true_ending(
    swept: tuple[Config, list[leaderboard.Row]],
) -> None:
    config, _ = swept
    trials = load(config).trials
    assert [t.number for t in trials] == list(range(8))
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        ran = len(calls(config)[trial.number])
        assert list(trial.intermediate_values) == list(range(1, ran + 1)), (
            "the evaluation that stopped it is there too"
        )
        assert (trial.state == TrialState.COMPLETE) == (ran == 4)
        assert trial.value == trial.intermediate_values[ran]
        assert (Path(folder(config)) / "trials" / str(trial.number) / "weights").exists() == (
            ran == 4
        )


def test_actors_are_used_again_and_trials_share_the_dataset(
    swept: tuple[Config, list[leaderboard.Row]],
) -> None:
    config, _ = swept
    notes = [note for trial in calls(config).values() for note in trial]
    assert len({note["pid"] for note in notes}) <= 2
    assert {note["dataset"] for note in notes} == {config.dataset}
    assert {note["cwd"] for note in notes} == {os.getcwd()}, (
        "relative paths of a config keep their meaning"
    )
    assert not list(Path(folder(config)).glob("trials/*/dataset"))


def test_the_leaderboard_is_sorted_and_on_disk(
    swept: tuple[Config, list[leaderboard.Row]],
) -> None:
    config, rows = swept
    assert storage.read_json(f"{folder(config)}/leaderboard.json") == json.loads(json.dumps(rows))
    assert sorted(row["number"] for row in rows) == list(range(8))
    completed = [row for row in rows if row["state"] == "completed"]
    assert rows[: len(completed)] == completed
    assert [row["score"] for row in completed] == sorted(
        (row["score"] for row in completed), reverse=True
    )
    assert [row["number"] for row in rows if row["default"]] == [0]
    best = rows[0]
    assert best["score"] == pytest.approx(
        -best["scores"]["held_out_loss"] + 0.1 * best["scores"]["clip_text"]
    )
    assert set(best["parameters"]) == set(config.tune.space)


def test_the_winner_s_config_is_ready_to_run(swept: tuple[Config, list[leaderboard.Row]]) -> None:
    config, rows = swept
    won = config_file.load(f"{folder(config)}/winner.toml")
    assert won.train.learning_rate == rows[0]["parameters"]["train.learning_rate"]
    assert (won.dataset, won.output) == (config.dataset, f"{config.output}/winner")
    assert (won.train.steps, won.train.score_every) == (
        config.train.steps,
        config.train.score_every,
    )


def test_a_finished_sweep_runs_nothing_more_and_more_trials_go_on(
    swept: tuple[Config, list[leaderboard.Row]],
) -> None:
    config, rows = swept
    before = calls(config)
    assert sweep(config, fake.train) == rows
    assert calls(config) == before
    more = fake.make_config(Path(config.output).parent, trials=10)
    assert len(sweep(more, fake.train)) == 10
    assert len(calls(config)) == 10


def test_a_diverging_trial_is_stopped_and_a_crashing_one_fails(ray: None, tmp_path: Path) -> None:
    config = fake.make_config(
        tmp_path, trials=6, concurrent=1, stopper="none", objective={"held_out_loss": -1.0},
        space={"train.learning_rate": {"choice": [1e-3, 0.9]}, "method.rank": {"choice": [4, 13]}},
    )  # fmt: skip
    rows = sweep(config, fake.train)
    assert len(rows) == 6
    for row in rows:
        rate, rank = row["parameters"]["train.learning_rate"], row["parameters"]["method.rank"]
        assert row["state"] == (
            "failed" if rank == 13 else "stopped" if rate == 0.9 else "completed"
        )
    failed = [row for row in rows if row["state"] == "failed"]
    assert {row["reason"] for row in failed} <= {"ValueError: thirteen"}
    for row in failed:
        error = Path(folder(config), "trials", str(row["number"]), "error.txt").read_text()
        assert 'raise ValueError("thirteen")' in error
        assert "\x1b" not in error, "no colors in a file"


def test_a_sweep_without_a_completed_trial_has_no_winner(ray: None, tmp_path: Path) -> None:
    config = fake.make_config(
        tmp_path, trials=2, include_default=False, space={"method.rank": {"choice": [13]}}
    )
    rows = sweep(config, fake.train)
    assert [row["state"] for row in rows] == ["failed", "failed"]
    assert leaderboard.winner(rows) is None
    assert not storage.exists(f"{folder(config)}/winner.toml")


def test_what_a_stopped_trial_s_workers_held_is_freed(ray: None) -> None:
    group = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert group.wait(30)
    assert "CPU" not in available_resources()
    nested.release({"objective": 1.0})  # a trial of one worker holds no group
    nested.release({nested.GROUP: group.id.hex()})
    nested.release({nested.GROUP: group.id.hex()})  # it may be gone already
    until = time.monotonic() + 120
    while available_resources().get("CPU") != 2:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_real_trials_train_on_the_shared_dataset_and_the_best_is_exported(
    ray: None, run_config: Callable[..., Config], bucket: str
) -> None:
    """On an object store, where each of them is written by whichever worker ran it."""
    settings = {
        "trials": 2,
        "concurrent": 2,
        "stopper": "none",
        "evaluations": 2,
        "objective": {"held_out_loss": -1.0},
        "space": {"train.learning_rate": {"choice": [1e-2, 1e-9]}},
    }
    evaluate = {"scorers": ["held_out_loss"], "timesteps": 2}
    config = run_config(
        train={"steps": 5, "learning_rate": 1e-2}, tune=settings, evaluate=evaluate,
        output=storage.join(bucket, "real"),
    )  # fmt: skip
    shards = {
        file: file.stat().st_mtime_ns for file in Path(config.dataset).rglob("*") if file.is_file()
    }
    rows = sweep(config)
    assert [row["state"] for row in rows] == ["completed", "completed"]
    assert [row["steps"] for row in rows] == [5, 5]
    assert {
        file: file.stat().st_mtime_ns for file in Path(config.dataset).rglob("*") if file.is_file()
    } == shards
    for row in rows:
        trial = trial_output(config, row["number"])
        assert len(checkpoint.listing(trial)) == 1, "one checkpoint, at the end"
        assert [r["step"] for r in read_metrics(trial) if "held_out_loss" in r] == [3, 5]
    written = on_ray().compute("tuning.sweep:export_winner", 1, 0, config=config, best=rows[0])
    assert written
    place, _, _ = storage.join(folder(config), "winner", "export").partition("?")
    assert all(path.startswith(f"{place}/") and storage.exists(path) for path in written)


def wait(
    condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 300
) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the sweep ended before it could be stopped"
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_the_same_command(ray: None, tmp_path: Path) -> None:
    """Ctrl-C first, then kill -9, then to the end: exactly the wanted number of trials,
    finished ones kept."""
    config = fake.make_config(tmp_path, stopper="none")
    toml = tmp_path / "config.toml"
    toml.write_text(config_file.to_toml(config))
    command = [sys.executable, "-m", "tests.tuning.fake", str(toml), "local", "60"]
    kept: dict[int, float | None] = {}
    for wanted, how in ((2, signal.SIGINT), (4, signal.SIGKILL)):
        fake.hold(config, wanted)
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)

        def midway(wanted: int = wanted) -> bool:
            """Some trials are done and one is not; read from their files,
            to leave the young study alone."""
            done = fake.done(folder(config))
            started = calls(config)
            newest = max(started, default=0)
            return len(done) >= wanted and newest not in done and len(started[newest]) == 2

        wait(midway, process)
        os.kill(process.pid, how)
        error = process.communicate(timeout=300)[1]
        trials = load(config).trials
        assert process.returncode != 0
        if how == signal.SIGINT:
            assert b"KeyboardInterrupt" in error
            assert not any(t.state == TrialState.RUNNING for t in trials), (
                "Ctrl-C leaves a tidy study"
            )
            assert storage.exists(f"{folder(config)}/leaderboard.json")
        else:
            assert any(t.state == TrialState.RUNNING for t in trials)
        now = {t.number: t.value for t in trials if t.state == TrialState.COMPLETE}
        assert kept.items() <= now.items()
        kept = now
    fake.hold(config, 1000)
    rows = sweep(config, fake.train)
    assert len(rows) == 8
    assert {row["state"] for row in rows} <= {
        "completed",
        "stopped",
    }  # what is tried depends on when it was interrupted
    assert kept.items() <= {row["number"]: row["score"] for row in rows}.items()
    assert len({tuple(row["parameters"].values()) for row in rows}) == 8, "nothing ran twice"
    assert sum(row["default"] for row in rows) == 1


def test_the_dashboard_shows_the_study(swept: tuple[Config, list[leaderboard.Row]]) -> None:
    config, _ = swept
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "optuna-dashboard"
    process = subprocess.Popen(
        [program, "--host", "127.0.0.1", "--port", str(port), home.url(config)]
    )
    try:
        while True:  # the test's own time-out ends it
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/studies", timeout=5
                ) as answer:
                    found = json.load(answer)
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.2)
        assert [one["study_name"] for one in found["study_summaries"]] == [home.NAME]
    finally:
        process.terminate()
        process.wait(timeout=60)
