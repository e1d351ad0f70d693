"""Rules of few images: whose captions a rewriter is asked of, what is left out for it, and which
captioner a large set has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.render.preparation import show
from raytrain.config import Config
from raytrain.config.unread import unread
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from tests.data.chat_server import serving
from tests.data.conftest import draw
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
REWRITER = {"rewriter": "tests.data.loud_rewriter", "rewriter_images": [3, 6]}


@pytest.mark.parametrize(
    ("count", "kept", "asked"),
    [(2, 2, False), (3, 3, True), (6, 6, True), (7, 5, True), (8, 8, False)],
)
def test_a_rewriter_is_asked_of_sets_within_its_range_alone(
    count: int,
    kept: int,
    asked: bool,
    tmp_path: Path,
    make_config: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(count):
        draw(tmp_path / f"images/{number}.png", number, caption="a cat")
    config = make_config(held_out=0.0, captions={**REWRITER, "rewriter_trim": 5})
    report = prepare(config)
    captions = {row["captions"][0] for (path, _), row in contents(config).items() if path}
    assert captions == ({"A CAT"} if asked else {"a cat"})
    assert report.kept == kept
    assert report.rules == ({"count": count - kept} if count > kept else {})
    if count > kept:
        assert [item.path for item in report.rejected] == ["5.png", "6.png"]
        assert "beyond the first 5 images" in report.rejected[0].reason
    show(report)
    said = f"{count} images are not 3 to 6 (data.captions.rewriter_images)"
    assert (said in " ".join(capsys.readouterr().out.split())) == (not asked)


def test_ranges_that_cannot_be_are_refused(make_config: Make) -> None:
    for captions, message in (
        ({"rewriter_images": [3, 50]}, "rewriter is ''"),
        ({**REWRITER, "rewriter_images": [6, 3]}, "two ascending numbers"),
        ({"rewriter_trim": 49}, "needs rewriter_images"),
        ({**REWRITER, "rewriter_trim": 7}, "must lie within"),
    ):
        with pytest.raises(UserError, match=message):
            make_config(captions=captions)


def test_a_large_set_is_captioned_by_the_fallback(
    tmp_path: Path, make_config: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        draw(tmp_path / f"images/{number}.png", number)
    fallback = {"above": 2, "captioner": "tests.data.size_captioner"}
    with serving(lambda _: "a paid answer") as server:
        endpoint = {"base_url": server.url, "model": "m"}
        captions = {"captioner": "openai", "options": endpoint, "fallback": fallback}
        config = make_config(held_out=0.0, captions=captions)
        report = prepare(config)
        assert server.questions == []
        assert "tests.data.size_captioner" in report.effective
        show(report)
        said = "3 images are too many for 'openai': captions are of 'tests.data.size_captioner'"
        assert said in " ".join(capsys.readouterr().out.split())
        found = {row["captions"][0] for (path, _), row in contents(config).items() if path}
        assert len(found) == 3
        (tmp_path / "images/2.png").unlink()
        prepare(config)
        found = {row["captions"][0] for (path, _), row in contents(config).items() if path}
        assert found == {"a paid answer"}


def test_a_fallback_needs_a_captioner_and_reads_its_own_keys(make_config: Make) -> None:
    fallback = {"above": 50, "captioner": "tests.data.size_captioner"}
    with pytest.raises(UserError, match="captioner is none; set one"):
        make_config(captions={"fallback": fallback})
    first = {"captioner": "tests.data.size_captioner"}
    with pytest.raises(UserError, match="captioner 'blip' needs `path`"):
        make_config(captions={**first, "fallback": {"above": 50, "captioner": "blip"}})
    with pytest.raises(UserError, match=r"data\.captions\.fallback\.options"):
        make_config(captions={**first, "fallback": {**fallback, "options": {"speed": 1}}})
    silent = {"above": 50, "path": "weights"}
    told = unread(make_config(captions={**first, "fallback": silent}))
    assert any("data.captions.fallback.path = 'weights' has no effect" in said for said in told)
