"""The submit command: what a user types, what it prints, which exit code it returns."""

import os

import pytest

import cluster
import cluster.submit
from cluster import auth
from cluster.head import head
from jobs import job
from jobs.submit import SUBMITTABLE, main

QUICK_JOB = """
import os, sys
from pathlib import Path
print("hello", Path(sys.argv[1]).read_text(), sys.argv[2:], os.environ["GREETING"])
sys.exit(5)
"""
ENDLESS_JOB = """
import signal
print("waiting", flush=True)
signal.pause()
"""

KILLED_JOB = """
import os
from pathlib import Path
mark = Path(os.environ["MARK"])
if not mark.exists():
    mark.touch()
    os.kill(os.getpid(), 9)
print("went on")
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("a = 1")
    return path


@pytest.fixture
def sent(monkeypatch):
    """What would have been sent, instead of sending it."""
    calls = []

    def record(*positional, **named):
        calls.append((positional, named))
        return "the-id"

    monkeypatch.setattr(cluster.submit, "start", record)
    monkeypatch.setattr(
        cluster.submit, "submit", lambda *positional, **named: (record(*positional, **named), 0)[1]
    )
    return calls


def test_the_arguments_reach_the_cluster(sent, config):
    arguments = [
        "train",
        str(config),
        "--address",
        "http://h:1",
        "--set",
        "a.b=c",
        "--set",
        "d=e",
        "--id",
        "x",
    ]
    assert main([*arguments, "--working-dir", str(config.parent), "--env", "A=1=2"]) == 0
    ((positional, named),) = sent
    assert positional == ("train", config, ["a.b=c", "d=e"])
    assert named == {
        "address": "http://h:1",
        "working_dir": config.parent,
        "submission_id": "x",
        "env": {"A": "1=2"},
        "retries": 0,
    }


def test_a_detached_job_prints_the_id_alone(sent, config, capsys):
    assert main(["train", str(config), "--address", "http://h:1", "--detach"]) == 0
    assert capsys.readouterr().out == "the-id\n"


def test_a_variable_without_a_value_is_the_users_own(sent, config, monkeypatch):
    monkeypatch.setenv("MINE", "7")
    assert main(["train", str(config), "--env", "MINE"]) == 0
    assert sent[0][1]["env"] == {"MINE": "7"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "c.toml", "--address", "http://127.0.0.1:1"], "Did you mean 'train'?"),
        (["submit", "c.toml", "--address", "http://127.0.0.1:1"], "stage 'submit' does not exist"),
        (["train", "c.toml", "--address", "http://127.0.0.1:1"], "must be a file"),
        (["train", "c.toml", "--env", "SURELY_NOT_SET"], "SURELY_NOT_SET is not set"),
        (["train", "c.toml", "--set", "a"], "KEY=VALUE"),
        (["train", "c.toml"], "named cluster"),
        (["train", "c.toml", "--detach", "--retries", "2"], "--retries is for a job that is"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if message == "KEY=VALUE":
        monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("arguments", [[], ["train"], ["train", "c.toml", "--nonsense"]])
def test_a_misused_command_line_is_exit_code_2(arguments, capsys):
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_all_stages_but_submit_can_be_sent():
    assert set(SUBMITTABLE) == {
        "run",
        "rehearse",
        "prepare",
        "train",
        "sample",
        "evaluate",
        "tune",
        "export",
        "plan",
        "quickstart",
    }


def test_a_job_runs_on_a_real_head_and_its_exit_code_comes_back(
    tmp_path, config, monkeypatch, capsys
):
    project = tmp_path / "project"
    for package in ("cluster", "raytrain", "tuning", "jobs"):
        (project / package).mkdir(parents=True)
        (project / package / "__init__.py").touch()
    (project / "jobs" / "train.py").write_text(QUICK_JOB)
    (project / "jobs" / "sample.py").write_text(ENDLESS_JOB)
    (project / "jobs" / "evaluate.py").write_text(KILLED_JOB)
    if "RAY_AUTH_TOKEN_PATH" not in os.environ:
        monkeypatch.setenv(auth.PATH_VARIABLE, str(tmp_path / "token"))
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.setenv(
                name, ""
            )  # remembered by monkeypatch, so what `enable` sets is taken back afterwards
            monkeypatch.delenv(name)
    with head(num_cpus=1, object_store_mb=100) as running:
        arguments = [
            "train",
            str(config),
            "--address",
            running.dashboard_url,
            "--working-dir",
            str(project),
        ]
        sent = [*arguments, "--env", "GREETING=well met", "--set", "x=y", "--id", "quick"]
        assert main(sent) == 5
        assert "hello a = 1 ['--set', 'x=y'] well met" in capsys.readouterr().out
        killed = ["evaluate", *arguments[1:], "--env", f"MARK={tmp_path / 'mark'}"]
        assert main([*killed, "--id", "killed", "--retries", "2"]) == 0
        captured = capsys.readouterr()
        assert captured.out.endswith("went on\n")
        assert "killed was killed (exit code 137); retry 1 of 2." in captured.err
        assert "Submitted killed-retry-1;" in captured.err
        later_by_its_id(arguments, ["--address", running.dashboard_url], capsys)


def later_by_its_id(arguments, address, capsys):
    """Look at the job that ended; follow and stop one that was left to itself."""

    def told(*words, code=0):
        assert job.main([*words, *address]) == code
        captured = capsys.readouterr()
        return captured.err if code == 2 else captured.out

    [line] = [line for line in told("list").splitlines() if "quick" in line]
    assert "FAILED" in line
    assert "5" in line
    assert told("status", "quick").startswith("quick, train, FAILED, started ")
    assert "hello a = 1" in told("logs", "quick")
    assert told("stop", "quick").startswith("quick, train, FAILED")
    assert "Did you mean 'quick'" in told("stop", "quik", code=2)

    assert main(["sample", *arguments[1:], "--id", "endless", "--detach"]) == 0
    assert capsys.readouterr().out == "endless\n"
    while "waiting" not in told("logs", "endless"):
        pass
    assert told("stop", "endless").startswith("endless, sample, STOPPED")
    assert "waiting" in told("logs", "endless", "--follow", code=130)
