"""Jobs on a real head: shipped, run, followed, stopped, refused."""

import io
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from cluster import auth
from cluster.client import dashboard_address, job_client
from cluster.errors import ClusterError
from cluster.follow import follow
from cluster.submit import start, submit


def test_a_job_runs_with_its_config_and_overrides_on_the_cluster(
    running_head, project, config, monkeypatch
):
    """A RAY_ADDRESS that points elsewhere does not divert it,
    as it would divert Ray's own client."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    output = io.StringIO()
    code = submit(
        "probe",
        config("mode = 'ok'"),
        ["train.note=two words"],
        address=running_head.dashboard_url,
        working_dir=project,
        output=output,
    )
    log = output.getvalue()
    assert code == 0, log
    assert "config submitted/config.toml mode = 'ok'" in log
    assert "overrides ['--set', 'train.note=two words']" in log
    assert f"joined {running_head.address} False" in log
    assert "task cluster" in log
    assert log.count("overrides") == 1


def test_a_failing_jobs_own_exit_code_comes_back(running_head, project, config):
    output = io.StringIO()
    url = running_head.dashboard_url
    assert (
        start("probe", config("fail"), address=url, working_dir=project, submission_id="mine")
        == "mine"
    )
    assert follow("mine", url, output=output) == 7
    assert output.getvalue().count("config submitted/config.toml fail") == 1
    with pytest.raises(ClusterError, match="used once"):
        start("probe", config("ok"), address=url, working_dir=project, submission_id="mine")


def test_rays_own_command_line_runs_the_same_job(running_head, project, config):
    config("mode = 'ok'").rename(project / "config.toml")
    command = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "job",
        "submit",
        "--address",
        running_head.dashboard_url,
    ]
    command += ["--working-dir", str(project), "--", "python", "-m", "jobs.probe", "config.toml"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert f"joined {running_head.address} False" in shown.stdout + shown.stderr


def test_ctrl_c_stops_the_job_in_order(running_head, project, config):
    code = (
        "import sys; from pathlib import Path; from cluster.submit import submit\n"
        "config, url, folder = sys.argv[1:]\n"
        "code = submit('probe', Path(config), address=url, working_dir=Path(folder), "
        "submission_id='stopped')\n"
        "sys.exit(code)"
    )
    command = [
        sys.executable,
        "-u",
        "-c",
        code,
        str(config("wait")),
        running_head.dashboard_url,
        str(project),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("waiting"):
                process.send_signal(signal.SIGINT)
        error = process.stderr.read()
    assert process.returncode == 130, seen + error
    assert "cleaned up" in seen
    assert "Traceback" not in error
    with job_client(running_head.dashboard_url) as client:
        assert client.get_job_info("stopped").status == "STOPPED"


def test_the_dashboard_wants_the_token(running_head):
    url = f"{running_head.dashboard_url}/api/version"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(url, timeout=10)
    assert refused.value.code == 401
    with urllib.request.urlopen(
        urllib.request.Request(url, headers=auth.bearer()), timeout=10
    ) as answer:
        assert b"ray_version" in answer.read()


def test_a_wrong_token_is_refused_in_words(running_head, project, config, monkeypatch, tmp_path):
    monkeypatch.setattr(auth, "bearer", lambda: {"Authorization": "Bearer wrong"})
    with pytest.raises(ClusterError, match="The token must be the cluster's own"):
        start("probe", config("ok"), address=running_head.dashboard_url, working_dir=project)


def test_nothing_listening_is_refused_in_words(project, config):
    with pytest.raises(ClusterError, match=r"nothing does at 127\.0\.0\.1:1 "):
        start("probe", config("ok"), address="http://127.0.0.1:1", working_dir=project)


def test_the_heads_other_port_is_refused_in_words(running_head, project, config):
    with pytest.raises(ClusterError, match="must be the address of a Ray dashboard"):
        start("probe", config("ok"), address=running_head.address, working_dir=project)


def test_an_override_without_a_value_is_refused(project, config):
    with pytest.raises(ClusterError, match="--set takes KEY=VALUE"):
        start(
            "probe",
            config("ok"),
            ["train.steps"],
            address="http://127.0.0.1:1",
            working_dir=project,
        )


def test_the_address_is_never_guessed(monkeypatch):
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ClusterError, match="named cluster"):
        dashboard_address(None)
    with pytest.raises(ClusterError, match="http address"):
        dashboard_address("ray://10.0.0.5:10001")
    assert dashboard_address("10.0.0.5:8265/") == "http://10.0.0.5:8265"
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.6:8265")
    assert dashboard_address(None) == "http://10.0.0.6:8265"
