"""Parquet files with images in them, written by the datasets library and by pyarrow."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.image.image import BadImage
from tests.data.servers import upload
from tests.data.sources.conftest import fill, listed, png

Read = Callable[[str], bytes]


def hub(path: Path, number: int = 7, rows: int = 3) -> Path:
    """Write a dataset as `datasets` does, with the images' bytes in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {
            "label": datasets.Value("int64"),
            "image": datasets.Image(),
            "text": datasets.Value("string"),
        }
    )
    records = {
        "label": list(range(number)),
        "image": [{"bytes": png(shade), "path": "same.png"} for shade in range(number)],
        "text": [f"text {shade}" for shade in range(number)],
    }
    datasets.Dataset.from_dict(records, features=features).to_parquet(str(path), batch_size=rows)
    return path


def test_a_file_of_the_datasets_library(tmp_path: Path, read: Read) -> None:
    path = hub(tmp_path / "data/train-0.parquet")
    assert pq.ParquetFile(path).num_row_groups == 3
    items, rejected = listed(path)
    assert [(item.path, item.captions) for item in items] == [
        (f"train-0.parquet/{n}", (f"text {n}",)) for n in range(7)
    ]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, [item.location for item in items])) == [
            png(n) for n in range(7)
        ]
    assert not rejected


def test_a_folder_of_splits_in_an_object_store(
    tmp_path: Path, bucket: tuple[Any, str], read: Read
) -> None:
    client, query = bucket
    fill(tmp_path, {"README.md": "x"})
    hub(tmp_path / "data/train-0.parquet")
    hub(tmp_path / "data/test-0.parquet", 2)
    upload(client, "images", tmp_path, "hub")
    for source in (tmp_path, f"s3://images/hub{query}"):
        items, rejected = listed(source)
        assert [item.path for item in items] == [f"data/test-0.parquet/{n}" for n in range(2)] + [
            f"data/train-0.parquet/{n}" for n in range(7)]  # fmt: skip
        assert read(items[-1].location) == png(6)
        assert not rejected


def test_plain_binary_columns_with_masks_and_several_captions(tmp_path: Path, read: Read) -> None:
    table = pa.table(
        {
            "mask": [png(3), None],
            "jpg": [png(1), b""],
            "conditioning_image": [png(4), png(5)],
            "prompt": [["a", "b"], None],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    items, rejected = listed(tmp_path / "x.parquet")
    assert [item.captions for item in items] == [("a", "b"), ()]
    assert (read(items[0].location), read(items[0].mask), read(items[0].control)) == (
        png(1),
        png(3),
        png(4),
    )
    with pytest.raises(BadImage, match="no image"):
        read(items[1].mask)
    assert not rejected


def test_images_that_are_files_next_to_it(tmp_path: Path, read: Read) -> None:
    fill(tmp_path, {"d/a.png": png(1)})
    fill(tmp_path.parent, {"outside.png": png(2)})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array(
        [{"bytes": None, "path": path} for path in ("a.png", "../../outside.png", "none.png")],
        kind,
    )
    pq.write_table(
        pa.table({"image": images, "caption": ["a", "b", "c"]}), tmp_path / "d/x.parquet"
    )
    items, rejected = listed(tmp_path / "d/x.parquet")
    assert [(item.path, item.captions, read(item.location)) for item in items] == [
        ("a.png", ("a",), png(1))
    ]
    assert ["leads out" in item.reason for item in rejected] == [True, False]


def test_a_table_of_addresses(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"URL": ["http://h.invalid/a.jpg", None], "TEXT": ["a", "b"]}),
        tmp_path / "x.parquet",
    )
    items, rejected = listed(tmp_path / "x.parquet")
    assert [(item.location, item.captions) for item in items] == [
        ("http://h.invalid/a.jpg", ("a",))
    ]
    assert [item.reason.split(":")[0] for item in rejected] == ["row 2"]


def test_broken_files_are_refused_alone(tmp_path: Path) -> None:
    hub(tmp_path / "b.parquet", 1)
    fill(tmp_path, {"a.parquet": "not parquet"})
    pq.write_table(pa.table({"number": [1]}), tmp_path / "c.parquet")
    items, rejected = listed(tmp_path)
    assert [item.path for item in items] == ["b.parquet/0"]
    assert [item.path for item in rejected] == ["a.parquet", "c.parquet"]
    assert "its columns are number" in rejected[1].reason


def test_a_rewritten_file_is_read_again(tmp_path: Path, read: Read) -> None:
    kept = []
    for number in (3, 4):
        items, _ = listed(hub(tmp_path / "x.parquet", number, rows=number))
        kept.append((items[-1].stamp, read(items[-1].location)))
    assert kept[0][0] != kept[1][0]
    assert [content for _, content in kept] == [png(2), png(3)]
