"""What a source holds is an image, is part of one, is refused, or is named as used by nothing."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.data import sources
from raytrain.data.files.location import named, parse
from raytrain.data.item import Item
from raytrain.errors import UserError
from tests.data.sources.conftest import everything, fill, listed, png, unused
from tests.data.sources.test_archive import pack

STEMS = ("a", "A", "b.1", "b.2", "größe", "a.png")
ENDINGS = (".png", ".jpg", ".txt", ".caption", ".json", ".md", ".mask.png", ".npz", "")
PLACES = ("", "10_dog/", "raw/", "train/", "val/deep/", "a.b/")
NAMES = st.builds(
    "".join, st.tuples(*map(st.sampled_from, (PLACES, STEMS, ENDINGS)))
)  # places by stems by endings
LISTS: dict[str, Callable[[list[str]], dict[str, str]]] = {
    "folder": lambda names: {},
    "kohya": lambda names: {},
    "imagefolder": lambda names: {"metadata.jsonl": lines("file_name", names)},
    "caption_files": lambda names: {"data.json": json.dumps([{"image": n} for n in names])},
}
"""Format -> the lists it comes with, of these images."""


def lines(field: str, names: list[str]) -> str:
    return "".join(json.dumps({field: name, "text": name}) + "\n" for name in names)


def fate(entries: list[Any], prefix: str = "") -> dict[str, list[str]]:
    """Return what became of each file or member: path -> `used`, or the rule it is left out by."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry, Item):
            found.setdefault(entry.path, []).append("used")
        else:
            found.setdefault(entry.path.removeprefix(prefix), []).append(entry.rule)
    return found


def captions(root: Path, entries: list[Any]) -> set[str]:
    """Return the text files that are captions, relative to the source."""
    files = [entry.caption_file for entry in entries if isinstance(entry, Item)]
    return {os.path.relpath(parse(file).file, root) for file in files if file}


@pytest.mark.parametrize("format", LISTS)
@settings(max_examples=40, deadline=None)
@given(names=st.sets(NAMES, min_size=1, max_size=14))
def test_every_file_of_a_folder_is_accounted_for(format: str, names: set[str]) -> None:
    root = Path(tempfile.mkdtemp())
    files = sorted({*names, "10_dog/one.png"})  # at least one image in every format
    lists = LISTS[format]([name for name in files if name.endswith(".png")][::2])
    fill(root, {name: png(number) for number, name in enumerate(files)} | lists)
    entries = everything(root, format=format)
    shutil.rmtree(root)
    found, read = fate(entries), captions(root, entries)
    for name in files:
        kinds = found.get(name, []) + ["caption"] * (name in read)
        assert kinds, f"{name} is passed over"
        assert len(kinds) == 1, f"{name} counts {kinds}"
    assert not any(path in lists for path in found if found[path] == ["unused"])


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "shards.tar"])
@settings(max_examples=40, deadline=None)
@given(names=st.sets(NAMES, min_size=1, max_size=14))
def test_every_member_of_an_archive_is_accounted_for(name: str, names: set[str]) -> None:
    root = Path(tempfile.mkdtemp())
    files = {member: png(number) for number, member in enumerate(sorted({*names, "one.png"}))}
    format = "webdataset" if name == "shards.tar" else "archive"
    entries = everything(pack(root / name, files), format=format)
    shutil.rmtree(root)
    members = [e for e in entries if isinstance(e, Item)]
    places = {place for e in members for place in (e.location, e.caption_file, e.mask) if place}
    left = {named(e.path) for e in entries if not isinstance(e, Item) and e.rule == "unused"}
    metadata = {
        m for m in files if format == "webdataset" and m.endswith((".json", ".txt", ".caption"))
    }
    assert len(left & {f"{name}/{member}" for member in files}) == len(left)
    taken = len(files) - len(left)
    assert len(places) <= taken <= len(places) + len(metadata)


def test_files_of_no_image_are_named_with_a_reason(tmp_path: Path) -> None:
    files = ("a.png", "a.png.txt", "B.png", "b.txt", "c.txt", "notes.md", "d.png", "d.txt")
    fill(tmp_path, dict.fromkeys((*files, "d.caption", ".hidden", "Thumbs.db"), "x"))
    assert unused(tmp_path) == {
        "b.txt": "no image has this stem; B.png differs in upper and lower case",
        "c.txt": "a text, but no image has its stem",
        "d.caption": "the caption of d.png is another file",
        "notes.md": "neither an image nor a caption",
    }
    [a] = [item for item in listed(tmp_path)[0] if item.path == "a.png"]
    assert a.caption_file.endswith("a.png.txt")


def test_names_are_equal_however_their_accents_are_composed(tmp_path: Path) -> None:
    whole, parts = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    fill(tmp_path / "beside", {f"{parts}.png": png(1), f"{whole}.txt": "x"})
    assert listed(tmp_path / "beside")[0][0].caption_file
    fill(tmp_path / "list", {f"{parts}/{parts}.png": png(1)})
    rows = json.dumps({"file_name": f"{whole}/{whole}.png", "text": "x"})
    fill(tmp_path / "list", {"metadata.jsonl": rows})
    items, rejected = listed(tmp_path / "list")
    assert [item.captions for item in items] == [("x",)]
    assert not rejected


def test_masks_of_no_image_are_named_once_all_subsets_are_read(tmp_path: Path) -> None:
    from raytrain.config.data import SubsetConfig

    fill(tmp_path, dict.fromkeys(("a/x.png", "b/y.png", "m/x.png", "m/y.png", "m/z.png"), png(1)))
    subsets = [
        SubsetConfig(source=str(tmp_path / name), masks=str(tmp_path / "m")) for name in "ab"
    ]
    left = [entry for entry in sources.every(subsets) if not isinstance(entry, Item)]
    assert [(entry.path, entry.rule) for entry in left] == [("m/z.png", "unused")]


def test_samples_whose_names_have_dots(tmp_path: Path) -> None:
    names = [f"shot.v1.{number}{end}" for number in range(4) for end in (".png", ".json")]
    files = {
        name: png(1) if name.endswith("png") else json.dumps({"text": name}).encode()
        for name in names
    }
    items, rejected = listed(pack(tmp_path / "x.tar", files))
    assert {item.path: item.captions for item in items} == {
        f"x.tar/shot.v1.{number}.png": (f"shot.v1.{number}.json",) for number in range(4)
    }
    assert not rejected
    assert not unused(tmp_path / "x.tar")


def test_columns_that_nothing_reads_are_named(tmp_path: Path) -> None:
    rows = {"file_name": "a.png", "description": "a cat", "id": 3}
    fill(tmp_path, {"a.png": png(1), "metadata.jsonl": json.dumps(rows)})
    left = unused(tmp_path)
    assert list(left) == ["metadata.jsonl: description", "metadata.jsonl: id"]
    assert "captions are in text, caption, prompt" in left["metadata.jsonl: description"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_a_spreadsheet(tmp_path: Path, encoding: str) -> None:
    fill(tmp_path, {"größe.png": png(1)})
    (tmp_path / "x.csv").write_bytes("file_name , text\ngröße.png,a cat\n".encode(encoding))
    items, rejected = listed(tmp_path / "x.csv")
    assert [item.captions for item in items] == [("a cat",)]
    assert not rejected


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"metadata.jsonl": '{"file_name": "a.png"}', "images.zip": ""},
            "a.png': cannot be read",
        ),
        ({"a.png.part": ""}, "a.png.part: neither an image"),
    ],
)
def test_a_source_without_images_says_what_it_holds(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    with pytest.raises(UserError, match="holds none") as raised:
        everything(fill(tmp_path, dict(files)))
    assert reason in str(raised.value)


@pytest.mark.parametrize("held", ["validation", "val", "test"])
def test_a_split_of_the_source_is_held_out(tmp_path: Path, held: str) -> None:
    fill(tmp_path, {"train/a.png": png(1), f"{held}/b.png": png(2)})
    fill(tmp_path, {f"{name}/metadata.jsonl": lines("file_name", [file])
                    for name, file in (("train", "a.png"), (held, "b.png"))})  # fmt: skip
    assert {item.path: item.held_out for item in listed(tmp_path)[0]} == {
        "train/a.png": False, f"{held}/b.png": True}  # fmt: skip
    shutil.rmtree(tmp_path / "train")
    assert not any(item.held_out for item in listed(tmp_path)[0]), "nothing to train on beside it"


def test_a_text_of_an_image_that_a_format_does_not_read(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1), "a.txt": "a cat", "b.txt": "a dog", "b.webp": png(2)})
    pack(tmp_path / "shard.tar", {"c.png": png(3)})
    assert unused(tmp_path, format="webdataset") == {
        "a.png": "an image where this format reads none",
        "a.txt": "the text of a.png, which this format does not read",
        "b.txt": "the text of b.webp, which this format does not read",
        "b.webp": "an image where this format reads none",
    }
