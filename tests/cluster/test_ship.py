import subprocess
from pathlib import Path

import pytest

from cluster import ship
from cluster.errors import ClusterError


def gathered(tmp_path, config, working_dir):
    into = tmp_path / "into"
    into.mkdir()
    shipment = ship.gather(config, working_dir, into)
    return shipment, {str(file.relative_to(into)) for file in into.rglob("*") if file.is_file()}


def test_files_travel_but_not_secrets_caches_or_runs(tmp_path, project, config):
    for name in (
        ".env",
        ".git2/x",
        "runs/big",
        "venv/lib",
        "jobs/__pycache__/a.pyc",
        "x.egg-info/y",
        "notes/plan.txt",
    ):
        (project / name).parent.mkdir(exist_ok=True, parents=True)
        (project / name).write_text("x")
    shipment, names = gathered(tmp_path, config("a = 1"), project)
    assert {
        "notes/plan.txt",
        "jobs/probe.py",
        "cluster/connect.py",
        "submitted/config.toml",
    } <= names
    assert not {
        name
        for name in names
        if name.startswith((".", "runs", "venv", "x.egg")) or "__pycache__" in name
    }
    assert shipment.config == "submitted/config.toml"
    assert shipment.left_out == ()


def test_git_decides_what_travels_but_the_config_always_does(tmp_path, project):
    (project / ".gitignore").write_text("images/\nignored.toml\n")
    (project / "images").mkdir()
    (project / "images" / "a.png").write_text("x")
    (project / "new.py").write_text("x")
    (project / "ignored.toml").write_text("a = 1")
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    shipment, names = gathered(tmp_path, project / "ignored.toml", project)
    assert "new.py" in names
    assert "images/a.png" not in names
    assert shipment.config == "ignored.toml"
    assert "ignored.toml" in names


def test_a_config_in_a_runs_folder_travels_at_its_own_place(tmp_path, project):
    path = project / "runs" / "a" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("a = 1")
    shipment, names = gathered(tmp_path, path, project)
    assert shipment.config == "runs/a/config.toml"
    assert shipment.config in names


def test_large_files_stay_and_are_named(tmp_path, project, config, monkeypatch):
    monkeypatch.setattr(ship, "LARGEST_FILE", 200_000)
    (project / "weights.safetensors").write_bytes(bytes(200_001))
    shipment, names = gathered(tmp_path, config("a = 1"), project)
    assert shipment.left_out == ("weights.safetensors",)
    assert "weights.safetensors" not in names


def test_a_shipment_that_ray_would_refuse_is_refused_before_the_upload(
    tmp_path, project, config, monkeypatch
):
    monkeypatch.setattr(ship, "LARGEST_SHIPMENT", 1000)
    with pytest.raises(ClusterError, match="stay under"):
        gathered(tmp_path, config("a = 1"), project)


def test_without_a_working_directory_the_installed_packages_travel(tmp_path, config):
    _, names = gathered(tmp_path, config("a = 1"), None)
    assert {f"{package}/__init__.py" for package in ship.PACKAGES} <= names
    assert "cluster/aws.yaml" in names


def test_a_folder_without_our_packages_gets_them(tmp_path, config):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "my_plugin.py").write_text("x = 1")
    _, names = gathered(tmp_path, config("a = 1"), folder)
    assert {"my_plugin.py", "cluster/__init__.py", "jobs/__init__.py"} <= names


def test_a_folder_that_would_hide_one_of_our_packages_is_refused(tmp_path, config):
    folder = tmp_path / "plain"
    (folder / "jobs").mkdir(parents=True)
    with pytest.raises(ClusterError, match="would hide ours"):
        gathered(tmp_path, config("a = 1"), folder)


@pytest.mark.parametrize("missing", ["config", "folder"])
def test_a_path_that_is_not_there_is_refused(tmp_path, config, missing):
    nowhere = Path("/nowhere/at/all")
    paths = (nowhere, None) if missing == "config" else (config("a = 1"), nowhere)
    with pytest.raises(ClusterError, match="nothing was submitted"):
        gathered(tmp_path, *paths)


def test_the_originals_are_never_touched(tmp_path, project):
    """Files are linked, so writing the config over its linked twin would write through to the
    user's file."""
    other = tmp_path / "other" / "config.toml"
    other.parent.mkdir()
    other.write_text("mine = 2")
    (project / "submitted").mkdir()
    (project / "submitted" / "config.toml").write_text("theirs = 1")
    gathered(tmp_path, other, project)
    assert (project / "submitted" / "config.toml").read_text() == "theirs = 1"
    assert other.read_text() == "mine = 2"
