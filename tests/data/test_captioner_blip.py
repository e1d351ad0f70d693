"""BLIP on tiny random weights: real classes, no torchvision, no download."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from raytrain.config import CaptionConfig, Config
from raytrain.data.captioners import blip
from raytrain.data.prepare import prepare
from tests.data.test_prepare import counts, live


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("blip"))
    blip.tiny(folder)
    return folder


def test_every_picture_gets_one_line_the_same_in_any_batch(weights: str) -> None:
    captioner = blip.Captioner(CaptionConfig(captioner="blip", path=weights, max_new_tokens=8), torch.device("cpu"))
    pictures = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue", "white")]
    captions = captioner.caption(pictures)
    assert len(captions) == 3
    assert captions == [captioner.caption([picture])[0] for picture in pictures]
    assert not any("[" in caption for caption in captions)


def test_a_prompt_is_continued(weights: str) -> None:
    settings = CaptionConfig(captioner="blip", path=weights, prompt="a red star", max_new_tokens=4)
    captioner = blip.Captioner(settings, torch.device("cpu"))
    assert all(caption.startswith("a red star") for caption in captioner.caption([Image.new("RGB", (9, 9))] * 2))


def test_the_version_follows_weights_prompt_and_settings(weights: str, tmp_path: Path) -> None:
    blip.tiny(str(tmp_path), seed=1)
    base = CaptionConfig(captioner="blip", path=weights)
    others = [
        base.model_copy(update=change)
        for change in ({"path": str(tmp_path)}, {"prompt": "a"}, {"num_beams": 1}, {"max_new_tokens": 3})
    ]
    versions = [blip.version(config) for config in (base, *others)]
    assert len(set(versions)) == 5
    assert blip.version(base) == versions[0]


@pytest.mark.usefixtures("here")
def test_only_pictures_without_caption_are_captioned_and_only_once(
    source: Path, make_config: Callable[..., Config], weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4, 5):
        (source / f"0{number}.txt").unlink()
    (source / "05.png").write_bytes((source / "05.png").read_bytes()[:-30])
    captions = {"captioner": "blip", "path": weights, "trigger": "sks", "max_new_tokens": 6}
    config = make_config(captions=captions)
    report = prepare(config)
    assert (report.captioned, report.kept) == (2, 11)
    assert [item.path for item in report.rejected] == ["05.png"]
    rows = live(config)
    assert rows["00.png"].caption == "sks, picture 0"
    assert rows["03.png"].caption.startswith("sks")

    report = prepare(config)
    assert (report.captioned, *counts(report)) == (0, 0, 0, 11)
    monkeypatch.setattr(blip.Captioner, "caption", lambda *arguments: pytest.fail("captioned again"))
    (source / "05.png").unlink()
    report = prepare(make_config(captions=captions | {"trigger": ""}))
    assert (report.captioned, *counts(report)) == (0, 0, 11, 0)
