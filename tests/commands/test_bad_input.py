"""Bad input by the commands a user types: one clear message, a non-zero exit, no traceback,
nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs import evaluate, plan, prepare, train
from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.families import sd15
from raytrain.toy.draw import draw_folder
from raytrain.train.guards import stop
from tests.conftest import losses

Command = Callable[[list[str]], int]


@pytest.fixture
def config_file(run_config: Callable[..., Config], tmp_path: Path) -> Callable[..., str]:
    def write(**tables: Any) -> str:
        path = tmp_path / "config.toml"
        path.write_text(to_toml(run_config(**tables)))
        return str(path)

    return write


def refused(
    command: Command, arguments: list[str], capsys: pytest.CaptureFixture[str], *parts: str
) -> None:
    """Check that a command ends with code 2 and one message that holds every part."""
    capsys.readouterr()
    assert command(arguments) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    messages = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(messages) == 1, printed.err
    for part in parts:
        assert part in printed.err


def test_config_mistakes(
    config_file: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = config_file()
    refused(
        train.main,
        [config, "--set", "train.learning_rte=1"],
        capsys,
        "learning_rte",
        "Did you mean 'learning_rate'",
    )
    refused(
        train.main,
        [config, "--set", 'data.buckets.crop="False"'],
        capsys,
        "data.buckets.crop",
        "center",
    )
    refused(plan.main, [config, "--set", "train.epochs=2"], capsys, "epochs or steps, not both")
    refused(plan.main, [str(tmp_path / "absent.toml")], capsys, "does not exist")
    (tmp_path / "broken.toml").write_text("[train\n")
    refused(plan.main, [str(tmp_path / "broken.toml")], capsys, "no valid TOML")


def test_missing_things(
    config_file: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = config_file()
    new = ["--set", f'data.dataset="{tmp_path / "new"}"']
    refused(
        prepare.main,
        [config, *new, "--set", 'data.source="/no/such/folder"'],
        capsys,
        "/no/such/folder",
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.md").write_text("no image")
    refused(
        prepare.main,
        [config, *new, "--set", f'data.source="{tmp_path / "empty"}"'],
        capsys,
        "image",
    )
    refused(train.main, [config, *new], capsys, "no finished dataset", "raytrain prepare")
    refused(
        evaluate.main,
        [config, "--set", f'output="{tmp_path / "untrained"}"'],
        capsys,
        "raytrain train",
    )
    refused(plan.main, [config, "--set", 'model.path="/no/such/model"'], capsys, "/no/such/model")
    assert not storage.exists(str(tmp_path / "new" / "manifest.json"))


def test_broken_models(
    config_file: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = config_file()
    sd15.tiny(str(tmp_path / "other"), seed=5)
    other = ["--set", f'model.path="{tmp_path / "other"}"']
    refused(train.main, [config, *other], capsys, "another VAE", "raytrain prepare")
    shutil.rmtree(tmp_path / "other" / "vae")
    for command in (plan.main, prepare.main, train.main):
        refused(command, [config, *other], capsys, "vae", "model.vae")


def test_bad_images_are_listed_and_the_good_arrive(
    config_file: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "mixed"
    draw_folder(source, 6, style="flat", seed=0)
    whole = (source / "0001.png").read_bytes()
    (source / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (source / "nothing.jpg").write_bytes(b"")
    (source / "text.png").write_text("this is no image")
    shutil.copy(source / "0002.png", source / "caption.png")
    (source / "caption.png").write_bytes(
        (source / "0002.png").read_bytes() + b"\0"
    )  # other bytes, still an image
    (source / "caption.txt").write_bytes(b"\xff\xfe broken")
    config = config_file()
    arguments = [
        config,
        "--set",
        f'data.source="{source}"',
        "--set",
        f'data.dataset="{tmp_path / "mixed-data"}"',
    ]
    capsys.readouterr()
    assert prepare.main(arguments) == 3
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    manifest = storage.read_json(str(tmp_path / "mixed-data" / "manifest.json"))
    assert manifest["rejected"] == 4
    assert sum(part["rows"] for part in manifest["parts"]) == 6
    for name in ("truncated.png", "nothing.jpg", "text.png", "caption"):
        assert name in printed.out
    assert prepare.main([*arguments, "--set", "data.allow_rejected=true"]) == 0
    capsys.readouterr()
    for file in source.glob("0*"):
        file.unlink()
    before = (tmp_path / "mixed-data" / "manifest.json").read_bytes()
    refused(prepare.main, arguments, capsys, "usable")  # only bad ones left
    assert (tmp_path / "mixed-data" / "manifest.json").read_bytes() == before


def test_another_run_in_the_output_folder(
    config_file: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
    run_config: Callable[..., Config],
) -> None:
    from raytrain.train import worker

    config = run_config()
    worker.train(config)
    storage.remove(storage.join(config.output, "train.json"))
    refused(
        train.main,
        [config_file(), "--set", "train.learning_rate=0.5"],
        capsys,
        "0.01 -> 0.5",
        "output",
    )
    assert checkpoint.load(checkpoint.find(config.output) or "").step == 6


def test_full_disk_while_a_checkpoint_is_written(
    config_file: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "small"
    output.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(output)], check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.fail("this test mounts a small tmpfs; run it as root or in a user namespace")
    try:
        config = config_file(
            method={"name": "full"}, train={"checkpoint_every": 1, "keep_checkpoints": 5}
        )
        refused(
            train.main,
            [config, "--set", f'output="{output}"'],
            capsys,
            "No space left",
            "Nothing that was there before",
        )
        folders = checkpoint.listing(str(output))
        assert folders
        for folder in folders:
            checkpoint.load(folder)
    finally:
        subprocess.run(["umount", "-l", str(output)], check=True)


def frozen_during_a_save(process: subprocess.Popen[str], config: Config) -> psutil.Process:
    """Stop the command's worker while it writes a checkpoint after its third, and return it."""
    while len(checkpoint.listing(config.output)) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    [worker] = [
        one
        for one in psutil.Process(process.pid).children()
        if "raytrain.train.worker" in one.cmdline()
    ]
    folder = Path(config.output) / "checkpoints"
    while True:
        worker.suspend()
        while worker.status() != psutil.STATUS_STOPPED:
            time.sleep(0.001)
        if any(".tmp-" in name for name in os.listdir(folder)):
            return worker
        worker.resume()
        time.sleep(0.001)


@pytest.mark.parametrize(
    "how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_interrupt_during_a_save(
    run_config: Callable[..., Config], config_file: Callable[..., str], how: signal.Signals
) -> None:
    train_table = {"steps": 12, "checkpoint_every": 1}
    config = run_config(method={"name": "full"}, train=train_table)
    path = config_file(method={"name": "full"}, train=train_table)
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    worker = frozen_during_a_save(process, config)
    try:
        process.send_signal(how)
        error = next(line for line in process.stderr if "Stopping after this step" in line)
        time.sleep(stop.SECONDS)  # so that the worker's next look at whether to stop is due
    finally:
        worker.resume()
    output, rest = process.communicate()
    error += rest
    assert process.returncode == 130, error
    assert "Traceback" not in output + error
    assert error.count("Interrupted.") == 1
    assert not (Path(config.output) / "train.json").exists()
    step = checkpoint.load(checkpoint.find(config.output) or "").step
    assert 3 <= step == len(losses(config)) < 12
    again = subprocess.run(
        [sys.executable, "-m", "jobs.train", path], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert len(losses(config)) == 12
