"""kohya's dataset configs, metadata files and folders with the number of repeats in their
names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.config import Config, ModelConfig, ObjectiveConfig, TrainConfig
from raytrain.config.captions import CaptionConfig
from raytrain.config.data import DataConfig
from raytrain.data.annotate.caption_text import compose, settled
from raytrain.data.pipeline.notes import of_sources
from raytrain.data.sources._shared.kohya_config import COUNTERPARTS, NOWHERE, Subset
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
    assert [read(item.mask) for item in items if item.mask] == [png(7)]
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
            '[[datasets]]\nresolution = "512"\n[[datasets.subsets]]\nimage_dir = "d"\n',
            "'resolution' must be right",
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


def config_of(path: Path, **tables: Any) -> Config:
    data = {"subsets": [{"source": str(path)}], **tables.pop("data", {})}
    return Config(output="run", model=ModelConfig(path="m"), data=DataConfig(**data), **tables)


def test_what_a_subset_says_of_captions_is_its_own(tmp_path: Path) -> None:
    text = """
    [general]
    shuffle_caption = true
    keep_tokens = 1
    [[datasets]]
    [[datasets.subsets]]
    image_dir = "a"
    caption_prefix = "p,"
    [[datasets.subsets]]
    image_dir = "b"
    shuffle_caption = false
    [[datasets.subsets]]
    image_dir = "c"
    shuffle_caption = false
    enable_wildcard = true
    keep_tokens_separator = "|||"
    secondary_separator = ";;;"
    caption_tag_dropout_rate = 0.25
    """
    images: dict[str, str | bytes] = {f"{name}/a.png": png(n) for n, name in enumerate("abc")}
    items, _ = listed(fill(tmp_path, {"c.toml": text, **images}) / "c.toml")
    given = CaptionConfig(keep_tags=9, trigger="sks")
    a, b, c = (settled(given, item.caption_settings) for item in items)
    assert (a.keep_tags, a.variants, a.shuffle_tags, a.affixes) == (1, 8, True, "shuffled")
    assert (b.keep_tags, b.variants, b.lines, b.affixes) == (1, 1, "first", "space")
    assert (c.variants, c.shuffle_tags, c.tag_dropout, c.lines) == (8, False, 0.25, "each")
    assert (c.wildcards, c.keep_separator, c.secondary_separator) == (True, "|||", ";;;")
    assert {each.trigger for each in (a, b, c)} == {"sks"}
    several = given.model_copy(update={"variants": 3})
    assert [settled(several, item.caption_settings).variants for item in items] == [3, 1, 3]


def test_every_other_key_is_told_with_ours_unless_it_says_the_same(tmp_path: Path) -> None:
    elsewhere = {
        "batch_size": "2", "resolution": "[768, 768]", "min_bucket_reso": "256",
        "max_bucket_reso": "1024", "bucket_reso_steps": "32",
        "bucket_no_upscale": "true", "flip_aug": "true", "color_aug": "true",
        "random_crop": "true", "caption_dropout_rate": "0.1", "validation_split": "0.2",
        "caption_dropout_every_n_epochs": "3", "token_warmup_step": "0.1",
    }  # fmt: skip
    nowhere = {
        "network_multiplier": "0.5", "cache_info": "true", "validation_seed": "3",
        "resize_interpolation": '"area"', "skip_image_resolution": "64",
        "custom_attributes": "{a = 1}",
    }  # fmt: skip
    lines = "enable_bucket = true\n"
    lines += "".join(f"{key} = {value}\n" for key, value in {**elsewhere, **nowhere}.items())
    path = tmp_path / "c.toml"
    fill(tmp_path, {"c.toml": f'[[datasets]]\n{lines}[[datasets.subsets]]\nimage_dir = "d"\n'})
    told = of_sources(config_of(path))
    for key in (*elsewhere, *nowhere):
        line = next(line for line in told if line.startswith(f"c.toml: {key} = "))
        assert (key in nowhere) == ("has no effect: " in line)
    assert (
        "c.toml: resolution = [768, 768], but data.buckets.resolution = 512 counts; set it to 768"
        in told
    )
    buckets = {"rule": "kohya", "resolution": 768, "min_side": 256, "max_side": 1024, "step": 32,
               "upscale": False, "crop": "random"}  # fmt: skip
    data = {
        "captions": {"warmup_stages": 4},
        "buckets": buckets,
        "augment": {"flip": True, "colors": 2},
        "held_out": 0.2,
    }
    same = config_of(
        path,
        data=data,
        train=TrainConfig(global_batch=2),
        objective=ObjectiveConfig(
            caption_dropout=0.1, caption_dropout_epochs=3, caption_warmup="10 %"
        ),
    )
    assert len(of_sources(same)) == len(nowhere)


def test_keys_that_differ_between_subsets_are_told_together(tmp_path: Path) -> None:
    path = fill(tmp_path, FILES) / "config.toml"
    told = of_sources(config_of(path, data={"masks": {"kind": "folder"}}))
    [line] = [line for line in told if "resolution" in line]
    assert "resolution = 512 and [768, 768]" in line
    assert "prepare the subsets apart" in line
    assert any("8 versions of each caption" in line for line in told)
    assert not any("conditioning" in line for line in told)
    assert set(KEYS) == {*COUNTERPARTS, *NOWHERE, *OWN}


OWN = {
    "image_dir", "num_repeats", "caption_extension", "class_tokens", "is_reg", "metadata_file",
    "caption_prefix", "caption_suffix", "conditioning_data_dir", "shuffle_caption", "keep_tokens",
    "keep_tokens_separator", "secondary_separator", "caption_separator", "enable_wildcard",
    "caption_tag_dropout_rate", "token_warmup_min",
}  # fmt: skip
KEYS = Subset.model_fields


def test_an_image_of_the_conditioning_folder_is_what_the_config_reads(tmp_path: Path) -> None:
    path = fill(tmp_path, FILES) / "config.toml"
    told = of_sources(config_of(path))
    assert any('set data.masks.kind = "folder" for a masked loss' in line for line in told)
    both = {"masks": {"kind": "folder"}, "controls": {"kind": "folder"}}
    with pytest.raises(UserError, match=r"both data\.masks\.kind and data\.controls\.kind"):
        of_sources(config_of(path, data=both))
    fill(tmp_path, {"faces/dog/a.png": png(8)})
    subset = {"source": str(path), "masks": str(tmp_path / "faces")}
    of_sources(config_of(path, data={**both, "subsets": [subset]}))
    items, _ = listed(path, masks=subset["masks"])
    assert items[0].mask.endswith("faces/dog/a.png")
    assert items[0].control.endswith("edges/a.webp")


def test_lines_of_a_metadata_caption_each_get_the_tags(tmp_path: Path) -> None:
    fill(tmp_path, {
        "x.png": png(1),
        "m.json": json.dumps({"x.png": {"caption": "a cat\na pet", "tags": "one, two"}}),
        "c.toml": '[[datasets]]\nenable_wildcard = true\n[[datasets.subsets]]\n'
                  'image_dir = "."\nmetadata_file = "m.json"\n',
    })  # fmt: skip
    [item], _ = listed(tmp_path / "c.toml")
    config = settled(CaptionConfig(), item.caption_settings)
    found = compose(item.captions, config, identity="i", seed=0)
    assert set(found) == {"a cat, one, two", "a pet, one, two"}


def test_without_buckets_there_is_one_size(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    lines = "resolution = 768\nenable_bucket = false\nmin_bucket_reso = 128\n"
    fill(tmp_path, {"c.toml": f'[[datasets]]\n{lines}[[datasets.subsets]]\nimage_dir = "d"\n'})
    told = of_sources(config_of(path))
    assert "data.buckets.sizes = [] counts; set it to [[768, 768]]" in told[1]
    assert len(told) == 2
    assert not of_sources(config_of(path, data={"buckets": {"sizes": [[768, 768]]}}))
