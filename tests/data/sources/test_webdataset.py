"""WebDataset shards, written by the webdataset library."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset

from tests.data.servers import upload
from tests.data.sources.conftest import listed, png

Read = Callable[[str], bytes]


def shards(
    folder: Path, samples: list[dict[str, Any]], size: int = 2, ending: str = "tar"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(f"{folder}/x-%03d.{ending}", maxcount=size, verbose=0) as writer:
        for number, sample in enumerate(samples):
            writer.write({"__key__": f"d/{number:04d}", **sample})
    return folder


SAMPLES = [
    {"png": png(0), "json": {"caption": "zero", "width": 8}, "txt": "text"},
    {"jpg": png(1), "json": {"text": ["one", "uno"]}},
    {"img.png": png(2), "mask.png": png(12), "control.png": png(22), "cls": b"cat"},
    {"webp": png(3), "cls": 7},
    {"json": {"caption": "no image"}},
]


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_samples_of_all_shards(tmp_path: Path, read: Read, ending: str) -> None:
    items, rejected = listed(shards(tmp_path / "s", SAMPLES, ending=ending))
    assert [item.path for item in items] == [
        f"x-000.{ending}/d/0000.png",
        f"x-000.{ending}/d/0001.jpg",
        f"x-001.{ending}/d/0002.img.png",
        f"x-001.{ending}/d/0003.webp",
    ]
    assert [read(item.location) for item in items] == [png(n) for n in range(4)]
    assert [item.captions for item in items] == [("zero",), ("one", "uno"), ("cat",), ()]
    assert [bool(item.caption_file) for item in items] == [True, False, False, False]
    assert read(items[0].caption_file) == b"text"
    assert (read(items[2].mask), read(items[2].control)) == (png(12), png(22))
    assert not rejected


@pytest.mark.parametrize(
    "pattern", ["x-{000..001}.tar", "x-*.tar", "x-{000,001}.tar", "x-00{0..1}.tar"]
)
def test_patterns_name_shards(tmp_path: Path, pattern: str) -> None:
    folder = shards(tmp_path / "s", [{"png": png(n), "txt": str(n)} for n in range(6)])
    items, _ = listed(f"{folder}/{pattern}")
    assert len(items) == (6 if "*" in pattern else 4)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = shards(tmp_path / "s", [{"png": png(1)}])
    items, rejected = listed(f"{folder}/x-{{000..002}}.tar")
    assert len(items) == 1
    assert [(item.path, item.reason) for item in rejected] == [
        ("x-001.tar", "not there"),
        ("x-002.tar", "not there"),
    ]


def test_one_shard_and_broken_json(tmp_path: Path, read: Read) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, content in (
            ("a.png", png(1)),
            ("a.json", b"{broken"),
            ("b.json", b'{"text": 5}'),
            ("b.png", png(2)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    items, rejected = listed(tmp_path / "x.tar")
    assert [(item.path, read(item.location)) for item in items] == [
        ("x.tar/a.png", png(1)),
        ("x.tar/b.png", png(2)),
    ]
    assert [item.path for item in rejected] == ["x.tar/a.json", "x.tar/b.json"]
    assert all("caption cannot be read" in item.reason for item in rejected)


def test_an_object_store(tmp_path: Path, bucket: tuple[Any, str], read: Read) -> None:
    client, query = bucket
    upload(client, "images", shards(tmp_path / "s", SAMPLES), "shards")
    for source in ("shards", "shards/x-{000..001}.tar", "shards/*.tar"):
        items, rejected = listed(f"s3://images/{source}{query}")
        assert [read(item.location) for item in items] == [png(n) for n in range(4)]
        assert not rejected


def test_a_stamp_tells_of_a_changed_shard(tmp_path: Path) -> None:
    stamps = [
        listed(shards(tmp_path / "s", [{"png": png(1), "json": {"text": text}}]))[0][0].stamp
        for text in ("a", "b")
    ]
    assert stamps[0] != stamps[1]
