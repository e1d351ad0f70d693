"""Inputs of other programs as they write them: datasets saved to disk, ControlNet's lists,
captions in a column of any name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from PIL import Image

from raytrain.config.file import load, parse
from raytrain.errors import UserError
from tests.data.sources.conftest import fill, listed, png, unused
from tests.data.sources.test_archive import pack

Read = Callable[[str], bytes]


@pytest.mark.parametrize("split", [False, True])
def test_a_dataset_saved_to_disk(tmp_path: Path, read: Read, split: bool) -> None:
    fill(tmp_path, {f"{number}.png": png(number) for number in range(5)})
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    columns = {"image": paths, "text": [f"image {number}" for number in range(5)]}
    saved = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    saved = saved.map(lambda row: {"image": Image.open(paths[int(row["text"][-1])])})
    whole = datasets.DatasetDict(train=saved, test=saved) if split else saved
    whole.save_to_disk(tmp_path / "saved", **({} if split else {"num_shards": 2}))
    items, rejected = listed(tmp_path / "saved")
    assert not rejected
    assert not unused(tmp_path / "saved")
    assert [item.captions for item in items if not item.held_out] == [
        (f"image {number}",) for number in range(5)
    ]
    assert sum(item.held_out for item in items) == (5 if split else 0)
    for item in reversed(items):  # a stream is read from its start again
        with Image.open(tmp_path / f"{item.captions[0][-1]}.png") as wanted:
            (tmp_path / "got.png").write_bytes(read(item.location))
            assert list(Image.open(tmp_path / "got.png").getdata()) == list(wanted.getdata())


def test_the_list_of_fill50k(tmp_path: Path, read: Read) -> None:
    rows = [
        {"source": f"source/{n}.png", "target": f"target/{n}.png", "prompt": f"circle {n}"}
        for n in range(3)
    ]
    fill(tmp_path, {row["source"]: png(number) for number, row in enumerate(rows)})
    fill(tmp_path, {row["target"]: png(9 + number) for number, row in enumerate(rows)})
    fill(tmp_path, {"prompt.json": "".join(json.dumps(row) + "\n" for row in rows)})
    items, rejected = listed(tmp_path)
    assert [(read(i.location), read(i.control), i.captions) for i in items] == [
        (png(9 + n), png(n), (f"circle {n}",)) for n in range(3)
    ]
    assert not rejected
    assert not unused(tmp_path)


LISTS = {
    "metadata.jsonl": json.dumps({"file_name": "a.png", "Description": "a cat", "text": "no"}),
    "data.json": json.dumps([{"image": "a.png", "Description": "a cat", "text": "no"}]),
    "captions.csv": "image_path,Description,text\na.png,a cat,no\n",
    "list.csv": "path,Description,text\na.png,a cat,no\n",
}


@pytest.mark.parametrize("name", [*LISTS, "x.tar"])
def test_captions_are_in_the_column_that_is_named(tmp_path: Path, name: str) -> None:
    if name == "x.tar":
        record = json.dumps({"description": "a cat", "text": "no"}).encode()
        pack(tmp_path / name, {"a.png": png(1), "a.json": record})
    else:
        fill(tmp_path, {"a.png": png(1), name: LISTS[name]})
    source = tmp_path / name if name in ("list.csv", "x.tar") else tmp_path
    for column, found in (("", "no"), ("description", "a cat")):
        items, _ = listed(source, caption_column=column)
        assert [item.captions for item in items] == [(found,)]
    with pytest.raises(UserError, match=r"no 'descr'; its columns are .*text"):
        listed(source, caption_column="descr")


def test_a_column_of_no_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="read as 'folder', has none"):
        listed(fill(tmp_path, {"a.png": png(1)}), caption_column="description")
    with pytest.raises(UserError, match=r"data.caption_column is of data.source"):
        parse(
            {
                "output": "x",
                "model": {"path": "m"},
                "data": {"caption_column": "x", "subsets": [{"source": "y"}]},
            }
        )


def test_a_key_of_the_file_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('output = "x"\n[model]\npath = "m"\n[train]\nepochs = 3\n')
    changed = load(tmp_path / "my.toml", ["train.epochs=", "train.steps=5"])
    assert (changed.train.epochs, changed.train.steps) == (None, 5)
    with pytest.raises(UserError, match=r"has no train.epoch\. Its default counts"):
        load(tmp_path / "my.toml", ["train.epoch="])


def test_a_list_with_tabs_is_a_metadata_file(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1), "metadata.tsv": "file_name\ttext\na.png\ta cat, asleep\n"})
    items, rejected = listed(tmp_path)
    assert [item.captions for item in items] == [("a cat, asleep",)]
    assert not rejected
    assert not unused(tmp_path)


def test_a_list_in_an_old_encoding_is_told(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1), "b.png": png(2)})
    (tmp_path / "metadata.csv").write_bytes(b"file_name,text\na.png,caf\xe9\nb.png,cat\n")
    items, rejected = listed(tmp_path)
    assert [item.captions for item in items if item.path == "b.png"] == [("cat",)]
    assert [(one.path, one.reason) for one in rejected] == [
        ("metadata.csv", "line 2: no UTF-8 text (at 3); save the list as UTF-8")
    ]


def test_paths_of_a_list_as_windows_or_a_script_writes_them(tmp_path: Path) -> None:
    names = {"by\\stem.png": "one", "sub\\a.png": "two", str(tmp_path / "images/b.png"): "three"}
    rows = [{"file_name": name, "text": text} for name, text in names.items()]
    rows.append({"file_name": "..\\out.png", "text": "four"})
    fill(tmp_path, {"out.png": png(4)})
    fill(
        tmp_path / "images",
        {
            "by\\stem.png": png(1),
            "sub/a.png": png(2),
            "b.png": png(3),
            "metadata.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        },
    )
    items, rejected = listed(tmp_path / "images")
    assert {item.path.rsplit("/")[-1]: item.captions for item in items} == {
        "by\\x5cstem.png": ("one",), "a.png": ("two",), "b.png": ("three",)
    }  # fmt: skip
    assert [one.reason for one in rejected] == [
        "line 4: '..\\\\x5cout.png' leads out of the dataset's folder"
    ]


def test_columns_of_refused_rows_are_not_called_unread(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1)})
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "../a.png", "text": "a", "more": 1}\n')
    assert list(unused(tmp_path)) == ["metadata.jsonl: more"]
