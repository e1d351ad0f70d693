"""What a format writes, our sources read back equal: generated folders, and each format's
limits told before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from raytrain import plugins
from raytrain.config.captions import CaptionConfig
from raytrain.config.data import FetchConfig, SubsetConfig
from raytrain.data import sources
from raytrain.data.annotate.caption_text import compose, settled
from raytrain.data.files.fetch import Fetcher
from raytrain.data.item import Item, Rejected
from raytrain.data.tools.convert import convert
from raytrain.errors import UserError
from tests.data.sources.conftest import fill, png

FORMATS = plugins.names("data.formats")
ONE, INSIDE = ("txt", "caption"), ("imagefolder", "kohya_folders")
WORDS = ("red", "a cat", "größe", "1girl", "{x}", 'say "hi"', "comma, here", "tab\there", "=1+1")
Facts = dict[bytes, tuple[Any, ...]]


def generated(folder: Path, seed: int, several: bool) -> Path:
    """Write a tree of images, with captions, masks and control images for some, as data.json."""
    draw, records = np.random.default_rng(seed), []
    for number in range(int(draw.integers(1, 9))):
        inner = ("", "a/", "a/b c/", "é/")[draw.integers(4)]
        name = f"{inner}{number}{(' x', '', '.y')[draw.integers(3)]}.png"
        fill(folder, {name: png(number)})
        count = int(draw.integers(0, 4 if several else 2))
        texts = [" ".join([f"{n}", *draw.choice(WORDS, draw.integers(1, 4))])
                 for n in range(count)]  # fmt: skip
        record: dict[str, Any] = {"image": name, "text": texts}
        for layer, shade in (("mask", 100), ("conditioning_image", 200)):
            if draw.random() < 0.4:
                record[layer] = f"layers/{layer}/{number}.png"
                fill(folder, {record[layer]: png(shade + number)})
        records.append(record)
    (folder / "data.json").write_text(json.dumps(records), encoding="utf-8")
    return folder


def facts(source: Path) -> Facts:
    """Return what a source says of each image, by the image's bytes; captions as they are trained
    with."""
    read, found = Fetcher(FetchConfig()).read, {}
    for item in sources.items(SubsetConfig(source=str(source))):
        assert isinstance(item, Item), item
        text = read(item.caption_file).decode() if item.caption_file else ""
        config = settled(CaptionConfig(), item.caption_settings)
        captions = compose((text,) if text else item.captions, config, identity="", seed=0)
        layers = [read(layer) if layer else b"" for layer in (item.mask, item.control)]
        found[read(item.location)] = (captions, *layers, item.repeats, item.regularization,
                                      item.prefix, item.suffix)  # fmt: skip
    return found


def carried(found: Facts, to: str) -> Facts:
    """Return what of it a format can hold."""
    kinds = plugins.load("data.formats", to).CARRIES
    if to == "kohya_folders":  # one folder of layers, which is read as what the config reads
        return {
            image: (*each[:1], each[1] or each[2], each[1] or each[2], *each[3:])
            for image, each in found.items()
        }
    fields = ("mask", "control", "repeats", "regularization", "prefix", "suffix")
    empty = (b"", b"", 1, False, "", "")
    return {
        image: (each[0], *(own if name in kinds else none
                           for name, own, none in zip(fields, each[1:], empty, strict=True)))
        for image, each in found.items()
    }  # fmt: skip


def readable(folder: Path, to: str) -> Path:
    """Return what of the folder a source reads."""
    return folder / "dataset.toml" if to.startswith("kohya") else folder


@pytest.mark.parametrize("to", FORMATS)
def test_what_is_copied_is_read_back_equal(tmp_path: Path, to: str) -> None:
    for seed in range(5):
        source = generated(tmp_path / f"source-{seed}", seed, several=to not in ONE)
        before, out = facts(source), tmp_path / f"out-{seed}"
        done = convert(str(source), to, str(out), copy=True)
        assert (done.images, done.rejected) == (len(before), 0)
        assert facts(readable(out, to)) == carried(before, to)
        lost = {name for name in ("mask", "control") if any(
            each[1 + (name == "control")] for each in before.values())}  # fmt: skip
        assert set(done.lost) == lost - plugins.load("data.formats", to).CARRIES


@pytest.mark.parametrize("to", [name for name in FORMATS if name not in INSIDE])
def test_a_list_elsewhere_names_the_images_where_they_are(tmp_path: Path, to: str) -> None:
    source = generated(tmp_path / "source", 3, several=to not in ONE)
    convert(str(source), to, str(tmp_path / "out"))
    before = sorted(file for file in source.rglob("*") if file.is_file())
    if to in ONE:
        texts = {str(file.relative_to(tmp_path / "out").with_suffix("")): file.read_text()
                 for file in (tmp_path / "out").rglob("*.*")}  # fmt: skip
        records = json.loads((source / "data.json").read_text())
        assert texts == {each["image"][:-4]: each["text"][0] for each in records if each["text"]}
    else:
        assert facts(readable(tmp_path / "out", to)) == carried(facts(source), to)
        assert not list((tmp_path / "out").rglob("*.png"))
    assert before == sorted(file for file in source.rglob("*") if file.is_file())


def test_every_format_becomes_every_other(tmp_path: Path) -> None:
    """A walk through all formats, each read from the one before."""
    source = generated(tmp_path / "0", 5, several=False)
    first = {image: each[0] for image, each in facts(source).items()}
    names = [*FORMATS, *reversed(FORMATS)]
    for number, to in enumerate(names, 1):
        convert(str(source), to, str(tmp_path / f"{number}"), copy=True)
        source = readable(tmp_path / f"{number}", to)
        assert {image: each[0] for image, each in facts(source).items()} == first, to


def test_what_a_subset_says_is_in_sd_scripts_config(tmp_path: Path) -> None:
    toml = """
    [[datasets]]
    [[datasets.subsets]]
    image_dir = "new"
    num_repeats = 7
    caption_prefix = "p,"
    [[datasets.subsets]]
    image_dir = "reg"
    is_reg = true
    class_tokens = "dog"
    caption_suffix = "s"
    """
    files: dict[str, str | bytes] = {"c.toml": toml, "new/a.png": png(1), "reg/a.png": png(2),
                                     "new/a.txt": "a cat"}  # fmt: skip
    source = fill(tmp_path / "source", files) / "c.toml"
    done = convert(str(source), "kohya_folders", str(tmp_path / "out"), copy=True)
    assert set(done.lost) == {"caption_settings"}
    assert facts(tmp_path / "out" / "dataset.toml") == facts(source)
    done = convert(str(source), "txt", str(tmp_path / "texts"))
    assert {"repeats", "regularization", "prefix", "suffix"} <= set(done.lost)
    assert done.lost["repeats"] == 1


def test_captions_go_next_to_the_images_and_overwrite_only_when_told(tmp_path: Path) -> None:
    table = "image_path,caption\na/x.png,new\n"
    files: dict[str, str | bytes] = {"a/x.png": png(1), "y.png": png(2), "a/x.txt": "mine"}
    source = fill(tmp_path / "s", {**files, "captions.csv": table})
    listing = str(source / "captions.csv")
    with pytest.raises(UserError, match=r"1 files are there already .*x\.txt.*--overwrite"):
        convert(listing, "txt")
    assert (source / "a" / "x.txt").read_text() == "mine"
    convert(listing, "caption")
    assert (source / "a" / "x.caption").read_text() == "new"
    convert(listing, "txt", overwrite=True)
    assert (source / "a" / "x.txt").read_text() == "new"
    convert(listing, "txt")  # what is there and equal is no conflict
    with pytest.raises(UserError, match=r"captions\.csv"):
        convert(listing, "captions_csv")


@pytest.mark.parametrize(
    ("files", "to", "settings", "message"),
    [
        ({"data.json": '[{"image": "a.png", "text": ["one", "two"]}]'}, "txt", {},
         "holds one caption an image, but 'a.png' has 2"),
        ({"a.jpg": png(5), "captions.json": '{"a.png": "one", "a.jpg": "two"}'}, "txt", {},
         "share the text file"),
        ({"a.jpg": png(5), "captions.json": '{"a.png": "one", "a.jpg": ""}'}, "caption", {},
         "share the text file"),
        ({}, "imagefolder", {}, "lies elsewhere.*--copy"),
        ({}, "imagefolders", {}, "Did you mean 'imagefolder'"),
    ],
)  # fmt: skip
def test_what_cannot_be_held_is_told_before_anything_is_written(
    tmp_path: Path, files: dict[str, str | bytes], to: str, settings: dict[str, Any], message: str
) -> None:
    source = fill(tmp_path / "s", {"a.png": png(1), **files})
    with pytest.raises(UserError, match=message):
        convert(str(source), to, str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()


def test_the_first_caption_is_taken_where_one_is_asked_for(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"data.json": '[{"image": "a.png", "text": ["one", "two"]}]'}
    source = fill(tmp_path / "s", {"a.png": png(1), **files})
    convert(str(source), "txt", first=True)
    assert (source / "a.txt").read_text() == "one"


def test_images_of_an_archive_are_copied_or_the_user_is_told(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("in/a.png", png(1))
        archive.writestr("in/a.txt", "a cat")
    with pytest.raises(UserError, match="in an archive"):
        convert(str(tmp_path / "z.zip"), "captions_json", str(tmp_path / "out"))
    with pytest.raises(UserError, match="cannot be written next to"):
        convert(str(tmp_path / "z.zip"), "txt")
    convert(str(tmp_path / "z.zip"), "captions_json", str(tmp_path / "out"), copy=True)
    assert facts(tmp_path / "out")[png(1)][0] == ("a cat",)


def test_the_datasets_library_loads_what_is_for_it(tmp_path: Path) -> None:
    source = generated(tmp_path / "s", 7, several=False)
    texts = sorted(each[0][0] for each in facts(source).values())
    for to, kind in (("imagefolder", "imagefolder"), ("parquet", "parquet")):
        out = tmp_path / to
        convert(str(source), to, str(out), copy=True)
        where: dict[str, Any] = (
            {"data_dir": str(out)} if to == "imagefolder"
            else {"data_files": str(out / "data" / "*.parquet")}
        )  # fmt: skip
        loaded = datasets.load_dataset(kind, split="train", cache_dir=str(tmp_path / "c"), **where)
        found = sorted(" ".join((row["text"] or "").split()) for row in loaded)
        assert found == texts
        assert loaded[0]["image"].size == (8, 8)


def test_a_broken_image_is_left_out_and_named(tmp_path: Path) -> None:
    source = fill(tmp_path / "s", {"a.png": png(1), "a.txt": b"\xff\xff\xff", "b.png": png(2)})
    done = convert(str(source), "captions_json", str(tmp_path / "out"), copy=True)
    assert (done.images, done.rejected) == (1, 1)
    assert isinstance(done.first[0], Rejected)
    assert "caption file" in done.first[0].reason
    assert [file.name for file in (tmp_path / "out").glob("*.png")] == ["b.png"]
