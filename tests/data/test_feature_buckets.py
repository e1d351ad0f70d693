"""Buckets by every rule through prepare, and images left out: each with its rule and reason,
none lost in silence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.prepare import prepare
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same, shown

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def placed(config: Config) -> set[tuple[str, str]]:
    return {key for key in contents(config) if key[0]}


def rejected(report: PrepareReport) -> dict[str, tuple[str, str]]:
    """Return path -> rule and reason of all that was left out."""
    lines = pq.read_table(report.rejected_path).to_pylist()
    assert len({line["path"] for line in lines}) == len(lines) == sum(report.rules.values())
    assert Counter(line["rule"] for line in lines) == report.rules
    return {line["path"]: (line["rule"], line["reason"]) for line in lines}


def test_one_image_at_two_resolutions(tmp_path: Path, make_config: Make) -> None:
    folder = tmp_path / "images"
    draw(folder / "large.png", 1, (150, 140))
    draw(folder / "middle.png", 2, (100, 100))
    draw(folder / "small.png", 3, (40, 40))
    config = make_config(held_out=0.0, buckets={"resolutions": [64, 128, 32], "step": 16})
    report = prepare(config)
    assert placed(config) == {
        ("large.png", "32x32"), ("large.png", "64x64"), ("large.png", "128x128"),
        ("middle.png", "32x32"), ("middle.png", "64x64"), ("small.png", "32x32"),
    }  # fmt: skip
    assert (report.found, report.kept, report.rules) == (3, 6, {})
    assert report.made["latents"] == 6
    found, direct = contents(config), Direct(config)
    for bucket, side in (("32x32", 32), ("64x64", 64), ("128x128", 128)):
        resized = round(150 * side / 140), side
        cut = shown(folder / "large.png", resized, 0, (resized[0] - side) // 2, (side, side))
        assert same(found["large.png", bucket]["latents"][0], direct.latents(cut))
    assert Dataset(config.dataset).counts() == {"128x128": 1, "32x32": 3, "64x64": 2}


def test_a_image_that_would_be_enlarged_is_left_out_and_told(
    tmp_path: Path, make_config: Make
) -> None:
    draw(tmp_path / "images/good.png", 1, (96, 96))
    draw(tmp_path / "images/small.png", 2, (40, 40))
    config = make_config(held_out=0.0, buckets={"sizes": [[64, 64]], "step": 16, "upscale": False})
    report = prepare(config)
    assert placed(config) == {("good.png", "64x64")}
    assert rejected(report) == {
        "small.png": ("size", "40x40 fills no bucket and data.buckets.upscale is off")
    }
    assert prepare(make_config(held_out=0.0, buckets={"sizes": [[64, 64]], "step": 16})).kept == 2


def test_the_mean_shape_is_of_all_that_are_kept(tmp_path: Path, make_config: Make) -> None:
    sizes = {"a": (128, 64), "b": (96, 64), "c": (64, 64), "too small": (200, 20)}
    for number, (name, size) in enumerate(sizes.items()):
        draw(tmp_path / f"images/{name}.png", number, size)
    config = make_config(
        held_out=0.0,
        buckets={"rule": "mean", "resolution": 64, "step": 16},
        quality={"min_side": 32},
    )
    report = prepare(config)
    ratio = (2 + 1.5 + 1) / 3
    width, height = (
        16 * round(side / 16) for side in (math.sqrt(64 * 64 * ratio), math.sqrt(64 * 64 / ratio))
    )
    assert placed(config) == {(f"{name}.png", f"{width}x{height}") for name in "abc"}
    assert report.rules == {"size": 1}
    draw(tmp_path / "images/d.png", 9, (64, 200))
    report = prepare(config)
    ratio = (2 + 1.5 + 1 + 0.32) / 4
    width, height = (
        16 * round(side / 16) for side in (math.sqrt(64 * 64 * ratio), math.sqrt(64 * 64 / ratio))
    )
    assert {bucket for _, bucket in placed(config)} == {f"{width}x{height}"} == {"64x64"}
    assert report.made["latents"] == 4, (
        "one image more moved the mean, and with it the only bucket"
    )


def test_kohya_without_enlarging_keeps_sizes_cut_to_the_step(
    tmp_path: Path, make_config: Make
) -> None:
    sizes = {"own": (70, 40), "exact": (64, 32), "large": (200, 100), "strip": (64, 12)}
    for number, (name, size) in enumerate(sizes.items()):
        draw(tmp_path / f"images/{name}.png", number, size)
    config = make_config(
        held_out=0.0, buckets={"rule": "kohya", "resolution": 64, "step": 16, "upscale": False}
    )
    report = prepare(config)
    # 200x100 is shrunk to the area: 90.5x45.3, cut to 80x32; 80 wide is 40 high (ratio 2.5 after
    # the cut to 32), 32 high is 64 wide (ratio 2, the image's own): so 64x32.
    assert placed(config) == {("own.png", "64x32"), ("exact.png", "64x32"), ("large.png", "64x32")}
    assert set(rejected(report)) == {"strip.png"}
    found, direct = contents(config), Direct(config)
    assert same(
        found["own.png", "64x32"]["latents"][0],
        direct.latents(shown(tmp_path / "images/own.png", (70, 40), 4, 3, (64, 32))),
    )


def test_every_filter_counts_and_names_what_it_leaves_out(
    tmp_path: Path, make_config: Make
) -> None:
    folder = tmp_path / "images"
    textured = Image.effect_noise((96, 96), 120).convert("RGB")
    for number in range(4):
        noise = Image.effect_noise((96, 96), 90 + 20 * number).convert("RGB")
        folder.mkdir(exist_ok=True)
        noise.save(folder / f"good {number}.png")
    textured.save(folder / "x.png")
    (folder / "x again.png").write_bytes((folder / "x.png").read_bytes())
    textured.save(folder / "x.jpg", quality=85)
    draw(folder / "narrow.png", 21, (100, 20))
    draw(folder / "panorama.png", 22, (300, 60))
    textured.filter(ImageFilter.GaussianBlur(6)).resize((90, 90)).transpose(
        Image.Transpose.ROTATE_90
    ).save(folder / "blurred.png")
    (folder / "broken.png").write_bytes((folder / "x.png").read_bytes()[:500])
    score = {"name": "sharp", "kind": "sharpness", "min": 200.0, "options": {"side": 96}}
    quality = {"min_side": 32, "max_ratio": 3.0, "near_duplicates": 4, "scores": [score]}
    config = make_config(held_out=0.25, quality=quality)
    report = prepare(config)
    assert report.rules == {
        "broken": 1,
        "size": 1,
        "ratio": 1,
        "duplicate": 1,
        "near_duplicate": 1,
        "sharp": 1,
    }
    said = rejected(report)
    assert {path: rule for path, (rule, _) in said.items()} == {
        "broken.png": "broken",
        "narrow.png": "size",
        "panorama.png": "ratio",
        "x.png": "duplicate",
        "x.jpg": "near_duplicate",
        "blurred.png": "sharp",
    }
    assert said["narrow.png"][1] == "100x20: a side is below data.quality.min_side = 32"
    assert said["panorama.png"][1] == "300x60: beyond data.quality.max_ratio = 3.0"
    assert said["x.png"][1] == "duplicate of x again.png"
    assert said["x.jpg"][1] == "looks like x again.png"
    assert "outside of min = 200.0" in said["blurred.png"][1]
    kept = contents(config)
    images = {path for path, _ in kept if path}
    assert report.found == len(images) + sum(report.rules.values()) == len(list(folder.iterdir()))
    assert images | set(said) == {path.name for path in folder.iterdir()}
    assert all(row["scores"][0] >= 200 for (path, _), row in kept.items() if path)
    assert report.annotated == {"sharp": 6}, "what the cheap filters left out is not scored"
    assert (
        sum(count.train + count.held_out for count in report.buckets.values()) == report.kept == 5
    )


def test_faults_of_one_array_are_listed_by_image(tmp_path: Path, make_config: Make) -> None:
    folder = tmp_path / "images"
    for number in range(3):
        draw(folder / f"{number}.png", number, (64, 64))
    (tmp_path / "masks").mkdir()
    draw(tmp_path / "masks/0.png", 1, (64, 64))
    draw(tmp_path / "masks/1.png", 1, (64, 20))
    subset: dict[str, Any] = {"source": str(folder), "masks": str(tmp_path / "masks")}
    settings = {"source": "", "subsets": [subset], "held_out": 0.0, "masks": {"kind": "folder"}}
    report = prepare(
        make_config(
            **settings, buckets={"resolutions": [32, 64], "step": 16}, augment={"flip": True}
        )
    )
    assert {path: reason.split(";")[0][:38] for path, (_, reason) in rejected(report).items()} == {
        "1.png": "its mask is 64x20 and the image 64x64:",
        "2.png": "it has no mask file",
    }
    assert (report.found, report.kept, report.rules) == (3, 2, {"broken": 2})
    assert report.buckets.keys() == {"32x32", "64x64"}


def test_the_list_of_what_is_left_out_is_the_same_in_whatever_order_it_was_found(
    tmp_path: Path, make_config: Make
) -> None:
    for name in "ab":
        draw(tmp_path / f"{name}/good {name}.png", ord(name), (64, 64))
        (tmp_path / f"{name}/bad {name}.png").write_bytes(b"no image")
    subsets = [{"source": str(tmp_path / name)} for name in "ab"]
    reports = [
        prepare(make_config(source="", subsets=order)) for order in (subsets, subsets[::-1])
    ]
    assert reports[0].rejected_path == reports[1].rejected_path
    assert list(rejected(reports[1])) == ["bad a.png", "bad b.png"]
