"""Rules of few images: whose captions a rewriter is asked of, and what is left out for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.render.preparation import show
from raytrain.config import Config
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
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
