"""kohya's dataset configs, metadata files and folders with the number of repeats in their
names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.errors import UserError
from tests.data.servers import upload
from tests.data.sources.conftest import fill, listed, png, unused

Read = Callable[[str], bytes]
CONFIG = """
[general]
shuffle_caption = true
caption_extension = ".txt"
num_repeats = 2

[[datasets]]
resolution = 512
caption_prefix = "outer"
[[datasets.subsets]]
image_dir = "dog"
class_tokens = "sks dog"
num_repeats = 10
conditioning_data_dir = "edges"
[[datasets.subsets]]
image_dir = "reg"
is_reg = true
class_tokens = "dog"
caption_prefix = "inner"
caption_suffix = "end"

[[datasets]]
resolution = [768, 768]
[[datasets.subsets]]
image_dir = "tuned"
metadata_file = "meta.json"
"""
FILES: dict[str, str | bytes] = {
    "config.toml": CONFIG, "dog/a.png": png(1), "dog/a.txt": "a", "dog/b.png": png(2),
    "dog/b.caption": "no", "dog/below/c.png": png(9), "edges/a.webp": png(7), "reg/a.png": png(3),
    "tuned/x.png": png(4), "tuned/y.jpg": png(5),
    "meta.json": json.dumps({"x.png": {"caption": "an x", "tags": "one, two",
    "train_resolution": [8, 8]},
                             "y": {"tags": "three"}, "z": {"tags": "x"}}),
}  # fmt: skip


def test_a_config_with_every_kind_of_subset(tmp_path: Path, read: Read) -> None:
    items, rejected = listed(fill(tmp_path, FILES) / "config.toml", repeats=3)
    assert [
        (item.path, read(item.location), item.captions, item.repeats, item.regularization)
        for item in items
    ] == [
        ("dog/a.png", png(1), (), 30, False),
        ("dog/b.png", png(2), ("sks dog",), 30, False),
        ("reg/a.png", png(3), ("dog",), 6, True),
        ("tuned/x.png", png(4), ("an x, one, two",), 6, False),
        ("tuned/y.jpg", png(5), ("three",), 6, False),
    ]
    assert [(item.prefix, item.suffix) for item in items] == [("outer", "")] * 2 + [
        ("inner", "end")
    ] + [("", "")] * 2
    assert [read(item.caption_file) for item in items if item.caption_file] == [b"a"]
    assert [read(item.control) for item in items if item.control] == [png(7)]
    assert len(rejected) == 1
    assert "tuned/z'" in rejected[0].reason


def test_a_config_in_an_object_store(tmp_path: Path, bucket: tuple[Any, str], read: Read) -> None:
    client, query = bucket
    upload(client, "images", fill(tmp_path, FILES), "kohya")
    items, _ = listed(f"s3://images/kohya/config.toml{query}")
    assert [read(item.location) for item in items] == [png(n) for n in (1, 2, 3, 4, 5)]


def test_metadata_with_full_paths_or_as_lines(tmp_path: Path, read: Read) -> None:
    fill(
        tmp_path,
        {
            "in/x.png": png(1),
            "full.json": json.dumps({str(tmp_path / "in/x.png"): {"tags": "a"}}),
            "lines.jsonl": json.dumps({"image_path": "in/x.png", "caption": "b"}),
        },
    )
    for name, caption in (("full.json", "a"), ("lines.jsonl", "b")):
        fill(
            tmp_path, {"c.toml": f'[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "{name}"\n'}
        )
        items, rejected = listed(tmp_path / "c.toml")
        assert [(read(item.location), item.captions) for item in items] == [(png(1), (caption,))]
        assert not rejected


def test_folders_named_by_repeats(tmp_path: Path, read: Read) -> None:
    fill(
        tmp_path,
        {
            "10_sks dog/a.png": png(1),
            "10_sks dog/a.caption": "a",
            "10_sks dog/b.png": png(2),
            "2_cat/a.png": png(3),
        },
    )
    items, rejected = listed(tmp_path)
    assert [
        (item.path, item.repeats, item.captions, bool(item.caption_file)) for item in items
    ] == [
        ("10_sks dog/a.png", 10, (), True),
        ("10_sks dog/b.png", 10, ("sks dog",), False),
        ("2_cat/a.png", 2, ("cat",), False),
    ]
    assert not rejected
    items, _ = listed(tmp_path, format="folder")
    assert {item.repeats for item in items} == {1}


@pytest.mark.parametrize(
    "other", ["2023_summer/a.png", "01_january/a.png", "plain/a.png plain2/a.png", "a.png"]
)
def test_other_folders_are_not_taken_for_repeats(tmp_path: Path, other: str) -> None:
    others = dict.fromkeys(other.split(), png(2))
    items, _ = listed(fill(tmp_path, {"10_dog/a.png": png(1)} | others))
    assert {item.repeats for item in items} == {1}
    assert len(items) == 1 + len(others)


def test_any_number_repeats_and_what_else_is_there_is_named(tmp_path: Path) -> None:
    names = ("010_cat/a.png", "1000_fox/a.png", "raw/a.png", "raw/a.txt")
    fill(tmp_path, dict.fromkeys(names, png(1)))
    for settings in ({}, {"format": "kohya"}):
        items, _ = listed(tmp_path, **settings)
        assert {item.path: item.repeats for item in items} == {
            "010_cat/a.png": 10, "1000_fox/a.png": 1000}  # fmt: skip
        assert list(unused(tmp_path, **settings)) == ["raw/a.png", "raw/a.txt"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[[datasets]\n", "readable TOML"),
        ("[general]\n", r"must have \[\[datasets\]\]"),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "d"\nnum_repeat = 2\n',
            "Did you mean 'num_repeats'",
        ),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "d"\nenable_wildcard = true\n',
            "'enable_wildcard' does not exist",
        ),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "d"\nnum_repeats = "2"\n',
            "'num_repeats' must be right: .* got '2'",
        ),
        (
            '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "d"\nnum_repeats = 0\n',
            "greater than or equal to 1, got 0",
        ),
        (
            "[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2\n",
            "needs image_dir or metadata_file",
        ),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "none"\n', "image_dir must be a folder"),
        ('[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "none.json"\n', "must be readable"),
    ],
)
def test_a_mistake_in_the_config_is_one_message(tmp_path: Path, config: str, message: str) -> None:
    fill(tmp_path, {"c.toml": config, "d/a.png": png(1)})
    with pytest.raises(UserError, match=message):
        listed(tmp_path / "c.toml")
