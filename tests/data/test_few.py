"""A few images that stand for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raytrain.config.data import DataConfig
from raytrain.data.pipeline import few
from raytrain.data.store import tables

DATA = DataConfig.model_validate({"buckets": {"resolution": 64, "step": 16}})
DEFAULTS: dict[str, Any] = {
    "mask_id": None, "control_id": None, "location": "", "mask": "", "control": "", "prefix": "",
    "suffix": "", "transparent": False, "repeats": 10, "weight": 1.0, "regularization": False,
    "scores": [], "quality": None, "center": None,
}  # fmt: skip


def chosen(
    tmp_path: Path, *images: dict[str, Any], words: tuple[str, ...] = ()
) -> tuple[list[str], dict[str, int]]:
    lines = [
        {**DEFAULTS, "number": number, "path": str(number), "width": 64, "height": 64,
         "captions": ["a star"], **image, "id": bytes([image["id"]] * 32)}
        for number, image in enumerate(images)
    ]  # fmt: skip
    tables.write_rows(str(tmp_path / "images.parquet"), lines, tables.IMAGES)
    places = str(tmp_path / "images.parquet"), DATA, 1.0, str(tmp_path / "few.parquet")
    count = few.choose(*places, words)
    kept = list(tables.read(places[-1], tables.IMAGES))
    assert {line["repeats"] for line in kept} <= {1}
    return [line["path"] for line in kept], count


def test_one_image_of_each_bucket_and_one_to_hold_out(tmp_path: Path) -> None:
    paths, count = chosen(
        tmp_path,
        {"id": 5}, {"id": 9}, {"id": 7},
        {"id": 3, "width": 96, "height": 48}, {"id": 2, "width": 96, "height": 48},
    )  # fmt: skip
    assert paths == ["1", "3", "4"]
    assert count == {"images": 3, "buckets": 2}


def test_images_that_bring_other_things_are_of_other_buckets(tmp_path: Path) -> None:
    paths, count = chosen(
        tmp_path,
        {"id": 1}, {"id": 2}, {"id": 3, "captions": []}, {"id": 4, "control": "a.png"},
        {"id": 5, "mask": "a.png"}, {"id": 0, "regularization": True},
    )  # fmt: skip
    assert paths == ["0", "1", "2", "3", "4", "5"]
    assert count == {"images": 6, "buckets": 1}


def test_images_from_which_nothing_is_learned_stand_for_others_last(tmp_path: Path) -> None:
    paths, _ = chosen(
        tmp_path,
        {"id": 1}, {"id": 2, "captions": ["a <new> star"]}, {"id": 8},
        {"id": 9, "captions": ["a <new> star"], "weight": 0.0},
        words=("<new>",),
    )  # fmt: skip
    assert paths == ["0", "1"]


def test_a_lone_image_is_all_there_is(tmp_path: Path) -> None:
    assert chosen(tmp_path, {"id": 4}) == (["0"], {"images": 1, "buckets": 1})
    assert chosen(tmp_path) == ([], {"images": 0, "buckets": 0})
