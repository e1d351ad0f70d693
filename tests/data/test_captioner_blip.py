"""Preparation with a captioner: BLIP on tiny random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain.config import Config
from raytrain.data.captioners import blip
from raytrain.data.captioners._local import LocalCaptioner
from raytrain.data.prepare import prepare
from tests.data.test_prepare import counts, live


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("blip"))
    blip.tiny(folder)
    return folder


@pytest.mark.usefixtures("here")
def test_only_images_without_caption_are_captioned_and_only_once(
    source: Path, make_config: Callable[..., Config], weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (3, 4, 5):
        (source / f"0{number}.txt").unlink()
    (source / "05.png").write_bytes((source / "05.png").read_bytes()[:-30])
    captions = {"captioner": "blip", "path": weights, "trigger": "sks", "max_new_tokens": 6}
    config = make_config(captions=captions)
    report = prepare(config)
    assert (report.annotated, report.kept) == ({"blip": 2}, 11)
    assert [item.path for item in report.rejected] == ["05.png"]
    rows = live(config)
    assert rows["00.png"]["caption"] == "sks, image 0"
    assert rows["03.png"]["caption"].startswith("sks")

    report = prepare(config)
    assert (report.annotated, counts(report)) == ({"blip": 0}, (0, 0, 22))
    monkeypatch.setattr(
        LocalCaptioner, "caption", lambda *arguments: pytest.fail("captioned again")
    )
    (source / "05.png").unlink()
    report = prepare(make_config(captions=captions | {"trigger": ""}))
    assert (report.annotated, counts(report)) == ({"blip": 0}, (0, 11, 11))
