"""A mistake late in the chain is told in the first minute, and a rehearsal leaves nothing."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from jobs import rehearse, run
from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import load, parse, to_toml
from raytrain.data.captioners import blip
from raytrain.rehearsal import settings
from raytrain.rehearsal.settings import needless
from raytrain.toy import WEIGHTS
from raytrain.train.record import phases
from tests.commands.rehearsals import everything, inside
from tests.commands.test_bad_input import refused
from tests.conftest import losses

SCORED = {"train.score_every": 2, "evaluate.clip": f"{WEIGHTS}/clip"}
LONG = "word " * 100
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
"""Of a command that is started in another folder."""


@pytest.fixture
def plan_of(
    run_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Return a function that writes a config with some keys changed and returns its path; the
    commands work in this process."""
    inside(monkeypatch)

    def write(keys: Mapping[str, Any] = {}) -> str:
        tree = run_config().values()
        tree["data"]["dataset"] = ""
        for key, value in keys.items():
            *path, last = key.split(".")
            table = tree
            for name in path:
                table = table[name]
            table[last] = value
        (tmp_path / "config.toml").write_text(to_toml(parse(tree)))
        return str(tmp_path / "config.toml")

    return write


def write_wrong_weights(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "wrong.safetensors")


def write_half_a_clip(folder: Path) -> None:
    shutil.copytree(f"{WEIGHTS}/clip", folder / "clip")
    (folder / "clip" / "preprocessor_config.json").unlink()


def write_mute_clip(folder: Path) -> None:
    shutil.copytree(f"{WEIGHTS}/clip", folder / "clip")
    for file in (folder / "clip").glob("token*"):
        file.unlink()


def write_export(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "export").touch()


def write_output(folder: Path) -> None:
    (folder / "run").touch()


def write_prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("a star --x 3\n")


def write_half_a_captioner(folder: Path) -> None:
    blip.tiny(str(folder / "blip"))
    (folder / "blip" / "model.safetensors").unlink()


def write_images(folder: Path, **files: Any) -> None:
    """Write six images of two shapes, all but some with a control image."""
    rng = np.random.default_rng(0)
    for place in ("images", "controls"):
        (folder / place).mkdir()
    for number in range(6):
        size = (64, 64) if number % 2 else (80, 48)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image.save(folder / "images" / f"{number}.png")
        (folder / "images" / f"{number}.txt").write_text(files.get("caption", f"image {number}"))
        if number % 2:
            image.save(folder / "controls" / f"{number}.png")


def write_long_captions(folder: Path) -> None:
    write_images(folder, caption=LONG)


def write_truncated(folder: Path) -> None:
    write_images(folder)
    for file in (folder / "images").glob("*.png"):
        file.write_bytes(file.read_bytes()[:-400])


OWN = {"data.source": "images"}
CONTROLLED = {"method": {"name": "controlnet"}, "data.source": "",
              "data.subsets": [{"source": "images", "controls": "controls"}],
              "data.controls.kind": "folder"}  # fmt: skip
Plant = Callable[[Path], None]
EARLY: dict[str, tuple[Plant | None, dict[str, Any], str, str]] = {
    "a scorer's weights are missing": (
        None,
        SCORED | {"evaluate.scorers": ["aesthetic"], "evaluate.aesthetic": "no.safetensors"},
        "check", "no.safetensors",
    ),
    "the judge's folder is missing": (
        None, SCORED | {"evaluate.clip": "./no/clip"}, "check", "evaluate.clip"
    ),
    "the judge has no tokenizer": (
        write_mute_clip, SCORED | {"evaluate.clip": "clip"}, "check", "lacks tokenizer"
    ),
    "the export's folder is a file": (write_export, {}, "check", "export"),
    "the output is a file": (write_output, {}, "", "must be writable"),
    "a flag of the prompt file is not known": (
        write_prompts, {"sample.prompt_file": "prompts.txt"}, "check", "'--x' is not known"
    ),
    "the prompt file is missing": (
        None, {"sample.prompt_file": "none.txt"}, "check", "none.txt"
    ),
    "images of this size cannot be drawn": (None, {"sample.width": 100}, "check", "multiples"),
    "nothing measures what the best is by": (
        None, {"train.best_by": {"clip": 1.0}}, "check", "nothing measures"
    ),
    "a control image has no prompt": (
        None, {"sample.controls": ["a.png"]}, "check", "takes none"
    ),
    "the objective weighs what nothing computes": (
        None,
        {"tune.space": {"train.learning_rate": {"log": [1e-4, 1e-2]}},
         "tune.objective": {"aesthetic": 1.0}},
        "", "tune.objective weighs",
    ),
    "a searched value is none": (
        None, SCORED | {"tune.space": {"method.rank": {"choice": [4, 0]}}}, "", "method.rank"
    ),
    "the captioner's folder is missing": (
        None, {"data.captions.captioner": "blip", "data.captions.path": "./no"},
        "prepare", "'./no'",
    ),
    "a bucket has no control images": (write_images, CONTROLLED, "encode", "no control file"),
    "no image has a mask": (
        write_images, OWN | {"data.masks.kind": "folder"}, "encode", "no mask file"
    ),
    "images are cut off": (write_truncated, OWN, "encode", "0.png"),
    "a GPU is asked for where none is": (
        None, {"data.encode.gpus_per_worker": 1}, "encode", "finds no GPU"
    ),
    "training asks for a GPU where none is": (
        None, {"train.gpus_per_worker": 1}, "load", "finds no GPU"
    ),
    "no format holds what is learned": (
        None, {"export.formats": ["a1111"]}, "load", "export.formats does not fit"
    ),
    "captions come from half a captioner": (
        write_half_a_captioner,
        {"data.captions.captioner": "blip", "data.captions.path": "blip",
         "data.captions.replace": True},
        "caption", "blip",
    ),
    "the loss explodes": (None, {"train.learning_rate": 1e38}, "step", "became"),
}  # fmt: skip
LATE = {
    "the judge has no image processor": (
        write_half_a_clip, SCORED | {"evaluate.clip": "clip"}, "resume, score", "evaluate.clip"
    ),
    "a scorer's weights are others": (
        write_wrong_weights,
        SCORED | {"evaluate.scorers": ["aesthetic"], "evaluate.aesthetic": "wrong.safetensors"},
        "resume, score", "not the ResNet-50",
    ),
    "the objective weighs a score that does not apply": (
        None,
        SCORED | {"tune.space": {"train.learning_rate": {"log": [1e-4, 1e-2]}},
                  "tune.objective": {"diversity": 1.0}},
        "tune", "not measured",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [*EARLY, *LATE])
def test_a_mistake_is_told_with_its_phase(
    name: str,
    plan_of: Callable[..., str],
    run_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant, keys, phase, told = (EARLY | LATE)[name]
    monkeypatch.chdir(tmp_path)
    if plant is not None:
        plant(tmp_path)
    config = plan_of(keys)
    before = everything(tmp_path)
    refused(rehearse.main, [config], capsys, f"phase '{phase}'" if phase else told, told)
    assert everything(tmp_path) == before


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a disk of so many bytes for the length of the block."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        pytest.fail("this test mounts a small tmpfs; run it as root or in a user namespace")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_for_the_first_checkpoint_is_told(
    plan_of: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = plan_of({"method": {"name": "full"}, "output": str(tmp_path / "small")})
    with small_disk(tmp_path / "small", "2m"):
        refused(rehearse.main, [config], capsys, "phase 'load'", "A checkpoint takes about", "MiB")
        assert everything(tmp_path / "small") == {}


def test_what_goes_well_is_told_with_its_memory_and_leaves_nothing(
    plan_of: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_long_captions(tmp_path)
    config = plan_of(OWN | {"sample.prompts": [LONG], "train.gradient_checkpointing": True})
    before = everything(tmp_path)
    assert rehearse.main([config]) == 0
    said = capsys.readouterr().out
    for phase in ("encode", "load", "step", "sample", "checkpoint", "resume, step", "export"):
        [line] = [each for each in said.splitlines() if each.startswith(f"    {phase} ")]
        assert " s  peak " in line
        assert float(line.split("peak ")[1].split()[0]) > 100
    assert "3 images of 2 buckets, of the first 6" in said
    assert "note: 1 prompt is longer than 75 tokens, whose end is not drawn" in said
    assert "note: 1 caption encoded now is longer than 75 tokens" in said
    assert {*everything(tmp_path)} == {*before, "run/rehearsed.json"}
    assert "was rehearsed with these settings" in needless(load(config))
    assert "reads" in needless(load(config, ["seed=7"]))


def test_a_long_job_is_rehearsed_once_and_computes_the_same(
    plan_of: Callable[..., str],
    run_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(settings, "SMALL", 40)
    config = plan_of()
    assert run.main([config]) == 0
    said = capsys.readouterr().out
    assert said.index("Every phase was rehearsed") < said.index(
        "Training with 1 worker from step 0"
    )
    assert run.main([config, "--set", "train.steps=7"]) == 0
    assert "goes on from a checkpoint" in capsys.readouterr().out
    plain = tmp_path / "plain"
    assert run.main([config, "--no-rehearse", "--set", f"output={plain}"]) == 0
    assert "Not rehearsed: --no-rehearse" in capsys.readouterr().out
    assert losses(run_config())[:6] == losses(run_config(name="plain"))
    used = storage.read_json(str(plain / "effective" / "train.json"))
    assert used["formats"]["value"] == ["diffusers", "kohya"]
    assert used["engine"]["why"].startswith('train.engine = "auto": without activations needs')
    assert used["micro_batch"]["value"] == 4
    assert used["steps"] == {"value": 6, "why": "as train.steps says"}
    prepared = storage.read_json(str(plain / "effective" / "prepare.json"))
    assert prepared["format"]["value"] == "folder"
    assert prepared["columns"]["value"] == ["latents", "text"]
    doing, done = phases.read(str(plain))
    assert doing == "checkpoint"
    assert {each.name: each.count for each in done}["step"] == 6


def test_a_small_job_is_its_own_rehearsal(run_config: Callable[..., Config]) -> None:
    assert "reads 54 images" in needless(run_config())
    assert needless(run_config(train={"steps": 150})) == ""
    assert "reads 330 images" in needless(run_config(train={"steps": None}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "workers"),
    [
        *((name, 1) for name in ("a bucket has no control images", "the loss explodes", *LATE)),
        ("the judge has no image processor", 2),
    ],
)
def test_a_command_tells_it_in_the_first_minute_before_a_long_step(
    name: str,
    workers: int,
    plan_of: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By `raytrain run` with processes of its own; their seconds on the processors are counted,
    which do not depend on what else runs; those of Ray's workers are not, who are no children."""
    plant, keys, phase, told = (EARLY | LATE)[name]
    monkeypatch.chdir(tmp_path)
    if plant is not None:
        plant(tmp_path)
    config = plan_of(keys | {"train.steps": 100_000, "train.workers": workers})
    before = everything(tmp_path)
    spent, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "jobs.run", config]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime
    print(f"{name}: told after {wall:.0f} s, {busy:.0f} s of processors")
    assert ended.returncode == 2, ended.stderr
    assert f"error: Rehearsal, phase '{phase}'" in ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert everything(tmp_path) == before
    assert busy < 60
