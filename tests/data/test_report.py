"""What a preparation says of its source: what nothing uses, what was held out,
what no bucket suits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from jobs.render.preparation import show
from raytrain.config import Config
from raytrain.data.prepare import prepare
from tests.data.conftest import SIZES, draw
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")


def test_the_report_tells_what_became_of_the_source(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    folder = tmp_path / "images"
    for split in ("train", "validation"):
        rows = [{"file_name": f"{split}{number}.png", "description": "x"} for number in range(3)]
        for number, row in enumerate(rows):
            draw(folder / split / row["file_name"], len(split) + number, SIZES[number])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / split / "metadata.jsonl").write_text(text)
    draw(folder / "train/tiny.png", 90, (20, 20))
    draw(folder / "train/long.png", 91, (400, 20))
    (folder / "notes.md").write_text("x")
    config = make_config(format="auto", held_out=0.5, quality={"max_ratio": None})
    report = prepare(config)
    console = Console(record=True, width=200)
    show(report, console)
    printed = console.export_text()
    for line in (
        "3 of the source's files or columns are used by nothing:",
        "notes.md: neither an image nor a caption",
        "train/metadata.jsonl: description: a column that nothing reads",
        "note: 1 image is enlarged more than 2 times to fill a bucket; data.quality.min_side",
        "note: 1 image is cropped by more than 50% to fill a bucket; data.quality.max_ratio",
    ):
        assert line in printed
    assert report.found == report.kept == 8
    sides = {(path.partition("/")[0], row["split"]) for (path, _), row in contents(config).items()
             if path}  # fmt: skip
    assert sides == {("train", "train"), ("validation", "held_out")}
