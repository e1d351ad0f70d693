"""Troubles that people reported of trainers, each by the command a user types: told at once, in
words."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs import plan, sample, train
from jobs.render.progress import Terminal
from raytrain import checkpoint, local, storage
from raytrain.config import Config
from raytrain.config.file import parse, to_toml
from raytrain.config.tune import Dimension, TuneConfig
from raytrain.data.annotate.caption_text import triggered
from raytrain.data.pipeline.on_machine import OnMachine
from raytrain.errors import UserError
from raytrain.export.bundle import write_safetensors
from raytrain.lock import locked
from raytrain.plan import plan as plan_of
from raytrain.sampling import prompt_file
from raytrain.train import launch
from tests.commands.test_bad_input import refused
from tests.conftest import losses
from tuning import objective
from tuning.sweep import sweep

SPACE = {"train.learning_rate": Dimension(log=(1e-4, 1e-2))}
COMMANDS = pytest.mark.parametrize("command", [plan.main, train.main], ids=["plan", "train"])


@pytest.fixture
def config_file(run_config: Callable[..., Config], tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(run_config()))
    return path


@COMMANDS
@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("train.learning_rate=inf", ["train.learning_rate", "finite"]),
        ("train.max_grad_norm=inf", ["train.max_grad_norm", "finite"]),
        ('tune.space={"train.learning_rate" = {log = [1e-4, inf]}}', ["finite"]),
        ("sample.width=100", ["100", "multiple"]),
        ("sample.seed=99999999999999999999", ["sample.seed", "9223372036854775808"]),
        ("train.best_by={hel_out_loss = -1}", ["hel_out_loss", "Did you mean 'held_out_loss'"]),
        ("train.best_by={clip_text = 1}", ["clip_text", "train.score_every = 0"]),
        ('sample.prompt_file="prompts.txt"', ["prompts.txt", "no UTF-8 text (byte 1)"]),
    ],
)
def test_told_before_anything_is_done(
    command: Callable[[list[str]], int],
    setting: str,
    parts: list[str],
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(config_file.parent)
    Path("prompts.txt").write_bytes("né\n".encode("cp1252"))
    refused(command, [str(config_file), "--set", setting], capsys, *parts)
    assert not list(Path().rglob("checkpoints"))


def with_subset(config: Config, data: dict[str, Any], **subset: str) -> Config:
    tree = config.values()
    tree["data"] |= {**data, "dataset": f"{config.output}-none"}
    tree["data"]["subsets"] = [{"source": tree["data"].pop("source"), **subset}]
    return parse(tree)


@pytest.mark.parametrize("what", ["masks", "controls"])
def test_images_are_not_their_own_masks_and_controls(
    run_config: Callable[..., Config], what: str
) -> None:
    config = run_config()
    for folder in (config.data.source, f"{config.data.source}/../images/"):
        with pytest.raises(UserError, match=f"its own folder of images as its {what}"):
            with_subset(config, {what: {"kind": "folder"}}, **{what: folder})


@pytest.mark.parametrize(
    ("what", "kind", "noted"),
    [("masks", "none", True), ("controls", "canny", True), ("masks", "folder", False)],
)
def test_masks_and_controls_that_nothing_reads_are_noted(
    run_config: Callable[..., Config], tmp_path: Path, what: str, kind: str, noted: bool
) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = str(tmp_path / "elsewhere")
    config = with_subset(run_config(), {what: {"kind": kind}}, **{what: folder})
    assert (f"the {what} {folder!r} of a subset have no effect" in plan_of(config).note) == noted
    assert bool(config.data.unread()) == noted


def test_a_run_does_not_write_among_its_images(
    config_file: Path, run_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    source = run_config().data.source
    for key in ("output", "data.dataset"):
        setting = f"{key}={source}/run"
        refused(plan.main, [str(config_file), "--set", setting], capsys, key, "beside it")


@pytest.mark.parametrize("among", ["source", "dataset"])
def test_images_are_not_drawn_among_those_trained_on(
    run_config: Callable[..., Config],
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    among: str,
) -> None:
    folder = str(getattr(run_config().data, among))
    refused(
        sample.main, [str(config_file), "--output", f"{folder}/drawn"], capsys, "--output", folder
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompt_files_are_read_as_caption_files_are(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a café\n", encoding=encoding)
    assert [wish.text for wish in prompt_file.read(str(path))] == ["a café"]


@pytest.mark.parametrize("text", ["photo of sks smiling", "sks, smiling", "smiling, sks"])
def test_a_trigger_that_the_caption_has_is_not_put_before_it(text: str) -> None:
    assert triggered(text, "sks", "[name]") == text
    assert triggered("photo of sksmith", "sks", "[name]") == "sks, photo of sksmith"


@pytest.mark.parametrize(
    ("trigger", "text"),
    [("sks", "photo of SKS"), ("ohwx man", "an  ohwx  man"), ("caf\u00e9", "cafe\u0301, a dog"),
     ("\u732b", "\u767d\u3044\u732b\u306e\u5199\u771f")],
)  # fmt: skip
def test_a_trigger_is_there_however_it_is_written(trigger: str, text: str) -> None:
    assert triggered(text, trigger, "[name]") == text


def test_files_are_for_others_as_the_umask_has_it(tmp_path: Path) -> None:
    import torch

    path = write_safetensors(str(tmp_path / "a.safetensors"), {"w": torch.zeros(2)}, {})
    Path(tmp_path / "beside").touch()
    modes = {stat.S_IMODE(os.stat(each).st_mode) for each in (path, tmp_path / "beside")}
    assert modes == {0o666 & ~storage.UMASK}


def test_a_sweep_is_refused_whose_score_no_image_gives() -> None:
    with pytest.raises(UserError, match=r"data\.held_out = 0"):
        objective.check({"held_out_loss": -1}, ["held_out_loss"], 0)


class Here:
    """Trains in this process."""

    def __init__(self, runs: Sequence[Config], *_: Any) -> None:
        self.runs = runs

    def fit(self) -> None:
        launch.work(*self.runs, rank=0, world_size=1, report=None)


@pytest.fixture
def trains_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "LocalTrainer", Here)


@pytest.mark.usefixtures("trains_here")
def test_a_finished_run_can_be_made_longer_and_nothing_else(
    run_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    def settings(name: str, **keys: Any) -> Config:
        return run_config(name=name, train={"steps": 2, **keys})

    with local.Machine() as machine:
        here = OnMachine(machine)
        launch.launch(settings("run"), executor=here)
        with pytest.raises(UserError, match=r"learning_rate: 0\.01 -> 0\.5.*Nothing was changed"):
            launch.launch(settings("run", learning_rate=0.5), executor=here)
        launch.launch(settings("run"), executor=here, show=Terminal())
        assert "is already trained" in capsys.readouterr().out
        launch.launch(settings("run", steps=4), executor=here, show=Terminal())
        assert "was trained to step 2; it goes on to 4" in capsys.readouterr().out
        with pytest.raises(UserError, match="a run of 3 steps cannot go on"):
            launch.launch(settings("run", steps=3), executor=here)
        whole = settings("whole", steps=4)
        launch.launch(whole, executor=here)
        assert losses(settings("run", steps=4)) == losses(whole)
        cosine = {"lr_schedule": "cosine"}
        launch.launch(settings("cosine", **cosine), executor=here)
        with pytest.raises(UserError, match=r"train\.steps: 2 -> 4.*its rate is constant"):
            launch.launch(settings("cosine", steps=4, **cosine), executor=here)


@pytest.mark.usefixtures("trains_here")
def test_a_refused_step_back_deletes_nothing(run_config: Callable[..., Config]) -> None:
    def settings(**keys: Any) -> Config:
        return run_config(train={"steps": 4, "keep_checkpoints": 4, **keys})

    def files() -> list[Path]:
        return sorted(Path(settings().output).rglob("*"))

    with local.Machine() as machine:
        launch.launch(settings(), executor=OnMachine(machine))
        before = files()
        first = checkpoint.listing(settings().output)[0]
        with pytest.raises(UserError, match=r"learning_rate: 0\.01 -> 0\.001"):
            launch.launch(settings(learning_rate=1e-3), resume=first, executor=OnMachine(machine))
    assert files() == before


def test_a_second_run_in_a_folder_is_refused(
    run_config: Callable[..., Config], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(run_config().output, "Another run is training", "harm"):
        refused(train.main, [str(config_file)], capsys, "Another run is training", "Wait for it")


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("keys", [{"workers": 3, "global_batch": 6}, {"cpus_per_worker": 16}])
def test_workers_that_would_wait_forever_are_refused_at_once(
    run_config: Callable[..., Config], keys: dict[str, Any]
) -> None:
    config = run_config(train=keys)
    with pytest.raises(UserError, match=r"there is room for \d: 1 nodes, the largest with 2 CPUs"):
        launch.launch(config)
    with pytest.raises(UserError, match="A trial's worker asks for"):
        sweep(config.model_copy(update={"tune": TuneConfig(space=SPACE)}))


@pytest.mark.parametrize(
    ("variant", "told"),
    [(None, "has only variants: 'fp16'.*Set model.variant to 'fp16'"), ("bf16", "'bf16': 'fp16'")],
)
def test_weights_of_another_variant_are_told_by_plan(
    run_config: Callable[..., Config], tmp_path: Path, variant: str | None, told: str
) -> None:
    data = {**run_config().data.model_dump(mode="json"), "dataset": str(tmp_path / "none")}
    config = run_config(data=data)
    folder = shutil.copytree(config.model.path, tmp_path / "half")
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))
    model = config.model.model_copy(update={"path": str(folder), "variant": "fp16"})
    plan_of(config.model_copy(update={"model": model}))
    model = model.model_copy(update={"variant": variant})
    with pytest.raises(UserError, match=told):
        plan_of(config.model_copy(update={"model": model}))


def test_a_folder_without_locks_is_used_and_one_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="must be writable"),
        locked(str(tmp_path / "file" / "run"), "Another run", "harm"),
    ):
        pytest.fail("entered")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(str(tmp_path / "run"), "Another run", "harm"):
        assert (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize(
    ("part", "damage", "told"),
    [
        ("unet", lambda whole: whole[: len(whole) // 2], "no whole safetensors file"),
        ("vae", lambda whole: whole[:5], "no whole safetensors file"),
        ("text_encoder", lambda _: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_weights_that_are_not_whole_are_told_by_plan(
    run_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    damage: Callable[[bytes], bytes],
    told: str,
) -> None:
    config = run_config()
    folder = shutil.copytree(config.model.path, tmp_path / "model")
    [weights] = (folder / part).glob("*.safetensors")
    weights.write_bytes(damage(weights.read_bytes()))
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config))
    refused(plan.main, [str(file), "--set", f'model.path="{folder}"'], capsys, told, weights.name)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (['evaluate.clip="/nowhere"'], ["evaluate.clip", "/nowhere"]),
        (
            ['tune.space={"train.learning_rat" = {log = [1e-4, 1e-2]}}'],
            ["train.learning_rat", "Did you mean"],
        ),
        (
            [
                'tune.space={"train.learning_rate" = {log = [1e-4, 1e-2]}}',
                "tune.objective={clip_txt = 1}",
            ],
            ["tune.objective", "clip_txt", "Did you mean 'clip_text'"],
        ),
        (['sample.prompt_file="empty.txt"'], ["empty.txt", "holds no prompt"]),
    ],
)
def test_what_only_a_later_stage_reads_is_told_by_plan(
    config_file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: list[str],
    parts: list[str],
) -> None:
    monkeypatch.chdir(config_file.parent)
    Path("empty.txt").write_text("# nothing but a comment\n\n")
    arguments = [word for setting in settings for word in ("--set", setting)]
    refused(plan.main, [str(config_file), *arguments], capsys, *parts)


def test_another_trainers_configuration_is_led_to_import(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "train.yaml"
    theirs.write_text("job: extension\nconfig:\n  process:\n    - type: sd_trainer\n")
    told = f"`raytrain import {theirs}`"
    refused(plan.main, [str(theirs)], capsys, told)
    refused(plan.main, [str(config_file), "--set", f'data.source="{theirs}"'], capsys, told)
    theirs = tmp_path / "dataset.toml"
    theirs.write_text('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "images"\n')
    refused(plan.main, [str(theirs)], capsys, "datasets", f"`raytrain import {theirs}`")
