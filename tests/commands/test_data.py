"""`raytrain data` as a person types it: what it prints, its exit codes,
and one message for every mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import cli, data
from raytrain.config import Config
from raytrain.config.file import to_toml
from tests.train.test_audit import at_step

COMMANDS = ("ls", "show", "diff", "gc", "preview", "audit", "publish")


@pytest.fixture
def place(run_config: Callable[..., Config], tmp_path: Path) -> tuple[str, str]:
    """A config file and a copy of its dataset, which tests may change."""
    config = run_config()
    folder = tmp_path / "dataset"
    shutil.copytree(config.dataset, folder)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"dataset": str(folder)})}
    )
    (tmp_path / "config.toml").write_text(to_toml(config), encoding="utf-8")
    at_step(config, 6)
    return str(tmp_path / "config.toml"), str(folder)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    capsys.readouterr()
    assert data.main(arguments) == code
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    if code:
        assert printed.err.startswith("error: ")
        return printed.err
    return printed.out


def test_config_and_folder_are_both_understood(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = place
    assert said(["ls", config], capsys) == said(["ls", folder], capsys)
    assert said(["show", config], capsys) == said(["show", folder, "1"], capsys)
    assert "0001.png" in said(["show", folder, "--row", "0001.png"], capsys)
    assert "30 the same" in said(["diff", folder, "1"], capsys)
    assert json.loads(said(["diff", folder, "1", "1", "--json"], capsys))["same"] == 30
    assert "nothing to delete" in said(["gc", folder, "--keep", "1", "--older-than", "0"], capsys)
    assert "As promised" in said(["audit", config], capsys)


def test_pages_and_publications(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, folder = place
    assert f"Open {folder}/preview.html" in said(["preview", config, "--per-bucket", "2"], capsys)
    assert Path(folder, "preview.html").stat().st_size > 10_000
    out = str(tmp_path / "out")
    assert f"hf upload <user>/<name> {out} . --repo-type dataset" in said(
        ["publish", folder, out, "--format", "parquet"], capsys
    )


def test_mistakes(
    place: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config, folder = place
    for command in ("ls", "show", "gc", "preview"):
        assert "no prepared dataset" in said([command, str(tmp_path)], capsys, 2)
    assert f"{folder!r} is one" in said(["ls", str(tmp_path)], capsys, 2)
    assert "has no snapshot '5'. It has 1" in said(["show", folder, "5"], capsys, 2)
    assert "has no snapshot 'x'" in said(["diff", folder, "x"], capsys, 2)
    assert "--set changes a config" in said(["ls", folder, "--set", "a=1"], capsys, 2)
    assert "Did you mean 'parquet'" in said(
        ["publish", folder, str(tmp_path / "o"), "--format", "parket"], capsys, 2
    )
    assert "of its own" in said(["publish", folder, str(tmp_path)], capsys, 2)
    assert "does not exist" in said(["ls", str(tmp_path / "absent.toml")], capsys, 2)
    assert "no run" in said(["audit", folder], capsys, 2)
    assert "Writing" in said(["preview", config, "--output", f"{config}/page.html"], capsys, 2)


def test_a_broken_promise_is_exit_code_1(
    run_config: Callable[..., Config], place: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    at_step(run_config(), 6, dataset="0" * 64)
    assert data.main(["audit", run_config().output]) == 1
    assert "BROKEN: the checkpoint was trained on rows" in capsys.readouterr().out.replace(
        "\n", " "
    )


def test_the_command_has_them_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in COMMANDS:
        monkeypatch.setattr(sys, "argv", ["raytrain", "data", name, "--help"])
        assert cli.main() == 0
        assert f"raytrain data {name}" in capsys.readouterr().out
    assert (
        subprocess.run(
            [sys.executable, "-m", "jobs.data", "lss"], check=False, capture_output=True
        ).returncode
        == 2
    )
