"""Looking at a dataset: snapshots, one row, and what differs between two snapshots."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from jobs.render import dataset
from jobs.render.difference import show
from raytrain.config import Config
from raytrain.data.prepare import prepare
from raytrain.data.tools import browse
from raytrain.data.tools.compare import Difference, difference
from raytrain.errors import UserError
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def text(content: RenderableType) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=200).print(content)
    return buffer.getvalue()


def kinds(found: Difference) -> dict[str, tuple[str, ...]]:
    return {change.path: change.kinds for change in found.first_changed}


def test_a_dataset_is_listed_and_shown(source: Path, make_config: Make) -> None:
    (source / "broken.png").write_bytes(b"no image")
    config = make_config(held_out=0.3)
    prepare(config)
    (source / "11.png").unlink()
    prepare(config)
    listed = text(dataset.snapshots(config.dataset)).splitlines()
    assert [line.split()[:2] for line in listed[1:3]] == [["1", listed[1].split()[1]], ["2", "*"]]
    assert " 12 " in listed[1]
    assert " 11 " in listed[2]
    assert "complete" in listed[2]
    manifest = browse.open_snapshot(config.dataset, "1")
    shown = text(dataset.overview(config.dataset, manifest))
    assert all(name in shown for name in manifest.buckets)
    assert "broken.png: not an image" in shown
    for column in ("latents float16 (8, H/8, W/8)", "text float16 (77, 32)"):
        assert column in shown
    row = browse.find_rows(config.dataset, manifest, "04.png")[0]
    assert (row["bucket"], row["captions"]) == ("80x48", ["image 4"])
    assert browse.find_rows(config.dataset, manifest, row["id"].hex()[:8])[0]["path"] == "04.png"
    everything = text(dataset.everything(row, manifest))
    for part in (
        "image 4",
        row["id"].hex(),
        "96x56",
        str(source / "04.png"),
        manifest.shards["latents"][row["latents"][0]["shard"]],
    ):
        assert part in everything
    with pytest.raises(UserError, match=r"no row 'O4\.png'.*Did you mean '0?\d*4\.png'"):
        browse.find_rows(config.dataset, manifest, "O4.png")
    with pytest.raises(UserError, match="left out by rule 'broken': not an image"):
        browse.find_rows(config.dataset, manifest, "broken.png")
    with pytest.raises(UserError, match=r"no snapshot '7'\. It has 1, 2"):
        browse.open_snapshot(config.dataset, "7")
    with pytest.raises(UserError, match="no prepared dataset"):
        browse.open_snapshot(str(source))


def test_what_differs_is_named(source: Path, make_config: Make) -> None:
    prepare(make_config(held_out=0.0))
    (source / "00.png").unlink()
    draw(source / "01.png", 101, (96, 56), "image 1")
    (source / "02.txt").write_text("other words")
    (source / "03.png").rename(source / "renamed.png")
    (source / "03.txt").rename(source / "renamed.txt")
    draw(source / "04.png", 104, (64, 64), "image 4")
    draw(source / "new.png", 200, caption="new")
    config = make_config(held_out=0.0)
    prepare(config)
    found = difference(config.dataset, "1", "latest")
    assert [change.path for change in found.first_removed] == ["00.png"]
    assert [change.path for change in found.first_added] == ["new.png"]
    assert kinds(found) == {
        "01.png": ("image",),
        "02.png": ("captions",),
        "renamed.png": ("path",),
        "04.png": ("image", "bucket"),
    }
    assert (found.same, found.changed, found.added, found.removed) == (7, 4, 1, 1)
    assert found.kinds == {"image": 2, "bucket": 1, "path": 1, "captions": 1}
    assert found.settings == {}
    shown = text(show(found))
    assert "~ 04.png (64x64): image, bucket" in shown
    assert "+ new.png" in shown
    back = difference(config.dataset, "2", "1")
    assert (back.added, back.removed, back.changed) == (1, 1, 4)
    few = text(show(difference(config.dataset, "1", "2", first=2)))
    assert "~ and 2 more" in few
    assert difference(config.dataset, "1", "1").same == 12


def test_settings_that_change_rows_are_told_apart(source: Path, make_config: Make) -> None:
    prepare(make_config(held_out=0.0))
    config = make_config(held_out=0.4, augment={"flip": True})
    prepare(config)
    found = difference(config.dataset, "1", "2", first=100)
    assert found.kinds["latents"] == 12
    assert 0 < found.kinds["split"] < 12
    assert set(found.kinds) == {"split", "latents"}
    assert found.settings == {"data.augment.flip": (False, True), "data.held_out": (0.0, 0.4)}
    subset = {"source": str(source), "format": "folder", "repeats": 3, "weight": 0.5}
    prepare(make_config(held_out=0.4, augment={"flip": True}, source="", subsets=[subset]))
    assert set(difference(config.dataset, "2", "3").kinds) == {"repeats", "weight"}
    prepare(make_config(held_out=0.4, masks={"kind": "alpha"}))
    assert set(difference(config.dataset, "2", "4").kinds) == {"latents", "mask"}


def test_another_text_encoder_is_no_other_caption(
    source: Path, make_config: Make, tmp_path: Path
) -> None:
    from raytrain.config.file import parse

    config = make_config(held_out=0.0)
    prepare(config)
    tables = config.values()
    prepare(parse({**tables, "model": {**tables["model"], "max_tokens": 150}}))
    found = difference(config.dataset, "1", "2")
    assert found.kinds == {"text": 12}
    assert set(found.settings) == {"text: text encoder"}
