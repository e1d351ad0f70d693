"""`raytrain new` and `raytrain import`: what they write, print and refuse."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from jobs import new
from raytrain import plugins, starter
from raytrain.config.file import load, parse
from raytrain.errors import UserError
from raytrain.plan import plan
from raytrain.toy import WEIGHTS
from raytrain.toy.draw import draw_folder
from tests.importers.cases import EXAMPLES

IMPORT: ModuleType = importlib.import_module("jobs.import")
"""Its name is a keyword."""
PAIRS = [(family, purpose) for family in plugins.names("families") for purpose in starter.PURPOSES]


@pytest.mark.parametrize(("family", "purpose"), PAIRS)
def test_a_starter_config_is_a_config(family: str, purpose: str) -> None:
    text = starter.text(starter.Start(family, purpose))
    config = parse(tomllib.loads(text))
    assert (config.model.family, config.model.path) == (family, starter.MODEL)
    assert config.method.name == starter.PURPOSES[purpose].method["name"][0]
    settings = [line for line in text.splitlines() if " = " in line]
    assert all("  # " in line for line in settings), "every choice has its reason"


def test_plan_takes_a_starter_config_and_nothing_is_left_to_fill_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, images = tmp_path / "my.toml", draw_folder(tmp_path / "bilder ü", 3)
    arguments = [str(path), "--family", "sd15", "--for", "face", "--source", str(images)]
    assert new.main([*arguments, "--model", f"{WEIGHTS}/sd15"]) == 0
    assert "Fill in" not in capsys.readouterr().out
    assert plan(load(path, ["data.buckets.resolution=64"])).trainable_parameters > 0


def test_what_only_the_user_knows_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path / "my.toml"), "--family", "sdxl", "--for", "style"]
    assert new.main(arguments) == 0
    assert "Fill in model.path and data.source" in capsys.readouterr().out
    assert new.main(arguments) == 2
    assert "File exists" in capsys.readouterr().err


def test_an_unknown_family_or_purpose_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "my.toml")
    assert new.main([path, "--family", "sdx", "--for", "style"]) == 2
    assert "Did you mean 'sdxl'?" in capsys.readouterr().err
    assert new.main([path, "--family", "sdxl", "--for", "faces"]) == 2
    assert "Did you mean 'face'?" in capsys.readouterr().err
    assert not Path(path).exists()


def test_a_family_that_cannot_learn_it_is_refused_with_those_that_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("raytrain.families.sd3.control_branch")
    with pytest.raises(UserError, match="Families that do: sd15, sdxl"):
        starter.text(starter.Start("sd3", "control"))


def test_import_prints_the_report_and_writes_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, case = tmp_path / "my.toml", EXAMPLES / "diffusers" / "dreambooth_sdxl" / "train.sh"
    assert IMPORT.main([str(case), "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\n  resolution = 1024 -> data.buckets.resolution = 1024" in out
    assert "\n  push_to_hub = True -> uploads" in out
    assert "18 translated, 1 without an equal, 6 different by default, 0 unknown" in out
    assert f"Check it: raytrain plan {path}" in out
    assert load(path).train.micro_batch == 1
    assert IMPORT.main([str(case), "--output", str(path)]) == 2
    assert "File exists" in capsys.readouterr().err


def test_import_says_what_is_still_to_fill_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, case = tmp_path / "my.toml", EXAMPLES / "eden" / "face_sd15" / "args.json"
    assert IMPORT.main([str(case), "--from", "eden", "--output", str(path)]) == 0
    assert "key 'model.path' is missing" in capsys.readouterr().out
    assert "# To be filled in: " in path.read_text()
    assert load(path, ["model.path=x"]).train.steps == 600
