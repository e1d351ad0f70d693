"""A dataset config of sd-scripts, prepared: masks of a masked loss, captions shuffled in one
subset alone, and what is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from raytrain.config import Config
from raytrain.data.prepare import prepare
from raytrain.show import Silent
from tests.data.conftest import draw
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")
TOML = """
[general]
resolution = 1024
[[datasets]]
[[datasets.subsets]]
image_dir = "new"
shuffle_caption = true
conditioning_data_dir = "masks"
[[datasets.subsets]]
image_dir = "plain"
shuffle_caption = false
conditioning_data_dir = "masks"
"""


class Warned(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


def test_masks_and_shuffling_are_the_subset_s_own(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    for number, name in enumerate(("new/a", "plain/b")):
        draw(tmp_path / f"{name}.png", number, caption="red, round, old")
        mask = tmp_path / "masks" / f"{name[-1]}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.new("L", (64, 64), 100 * (number + 1)).save(mask)
    (tmp_path / "c.toml").write_text(TOML)
    config = make_config(
        source=str(tmp_path / "c.toml"), format="auto", held_out=0.0, masks={"kind": "folder"}
    )
    shown = Warned()
    prepare(config, show=shown)
    rows = {row["path"]: row for (path, _), row in contents(config).items() if path}
    assert rows["plain/b.png"]["captions"] == ["red, round, old"]
    captions = rows["new/a.png"]["captions"]
    assert captions[0] == "red, round, old"
    assert len(captions) > 3
    assert {tuple(sorted(text.split(", "))) for text in captions} == {("old", "red", "round")}
    for path, value in (("new/a.png", 100), ("plain/b.png", 200)):
        [(columns, _, _)] = rows[path]["mask"]
        assert set(columns["mask"]) == {value}
    assert any("c.toml: resolution = 1024, but data.buckets.resolution = 64" in text
               for text in shown.texts)  # fmt: skip
