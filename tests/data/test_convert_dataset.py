"""Captions of a prepared dataset, written back by the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import data
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.data.prepare import prepare
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")


def test_captions_of_a_dataset_go_back_next_to_the_images(
    tmp_path: Path, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    for number, caption in enumerate(("a cat", None, "a dog, red")):
        draw(tmp_path / "images" / "in" / f"{number}.png", number, caption=caption)
    captions = {"trigger": "sks", "variants": 3}
    config = make_config(captions=captions, held_out=0.0)
    prepare(config)
    images = tmp_path / "images" / "in"
    assert data.main(["convert", config.dataset, "--to", "txt"]) == 2
    assert "2 files are there already" in capsys.readouterr().err
    assert (images / "0.txt").read_text() == "a cat"
    assert data.main(["convert", config.dataset, "--to", "txt", "--overwrite"]) == 0
    assert {file.name: file.read_text() for file in images.glob("*.txt")} == {
        "0.txt": "sks, a cat", "1.txt": "sks", "2.txt": "sks, a dog, red"
    }  # fmt: skip
    (tmp_path / "my.toml").write_text(to_toml(config))
    told = ["convert", str(tmp_path / "my.toml"), str(tmp_path / "out"), "--to", "captions_json"]
    assert data.main(told) == 0
    assert "3 captions of 3 images as captions_json" in " ".join(capsys.readouterr().out.split())
    written = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert written == {
        str(images / f"{number}.png"): text
        for number, text in enumerate(("sks, a cat", "sks", "sks, a dog, red"))
    }
