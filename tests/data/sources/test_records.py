"""Tables, imagefolders and caption files: lists of images in every spelling,
broken lines included."""

from __future__ import annotations

import csv
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.config.data import SubsetConfig
from raytrain.data import sources
from raytrain.data.sources._shared.rows import Row, rows
from tests.data.servers import content, upload, web
from tests.data.sources.conftest import fill, listed, png

Read = Callable[[str], bytes]


def write_list(path: Path, records: list[dict[str, Any]]) -> Path:
    """Write records in the format of the path's extension, by the format's own library."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(
                stream, list(records[0]), delimiter="," if path.suffix == ".csv" else "\t"
            )
            writer.writeheader()
            writer.writerows(records)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    "column", ["path", "file", "file_name", "filename", "url", "image", "URL"]
)
def test_tables_of_any_kind_and_column(
    tmp_path: Path, read: Read, ending: str, column: str
) -> None:
    fill(tmp_path, {"a/x.png": png(1), "b.png": png(2), "b.txt": "beside", "t/none": ""})
    records = [
        {column: "../a/x.png", "caption": 'of "a", with\nlines'},
        {column: str(tmp_path / "b.png"), "caption": ""},
    ]
    items, rejected = listed(write_list(tmp_path / f"t/list.{ending}", records))
    assert [(read(item.location), item.captions) for item in items] == [
        (png(1), ('of "a", with\nlines',)), (png(2), ())]  # fmt: skip
    assert read(items[1].caption_file) == b"beside"
    assert items[0].path == "../a/x.png"
    assert not rejected


def test_several_captions_of_a_image(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1), "b.png": png(2)})
    records = [
        {"file": "a.png", "text": ["one", "two"]},
        {"file": "b.png", "text": "x"},
        {"file": "b.png", "text": "y"},
        {"file": "a.png", "text": "late"},
    ]
    items, rejected = listed(write_list(tmp_path / "x.jsonl", records))
    assert [(item.path, item.captions) for item in items] == [
        ("a.png", ("one", "two")),
        ("b.png", ("x", "y")),
    ]
    assert [(item.path, item.rule) for item in rejected] == [("a.png", "duplicate")]


def test_web_addresses_are_listed_unread_and_always_read(tmp_path: Path, read: Read) -> None:
    with web({"/a.png?x=1": content(png(1))}) as site:
        records = [
            {"url": f"{site}/a.png?x=1", "text": "a"},
            {"url": "https://nowhere.invalid/b.png", "text": "b"},
        ]
        items, rejected = listed(write_list(tmp_path / "x.csv", records))
        assert read(items[0].location) == png(1)
    assert [(item.captions, item.stamp) for item in items] == [(("a",), ""), (("b",), "")]
    assert not rejected


def test_broken_rows_are_refused_by_number_and_the_rest_counts(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1), "d.png/x": ""})
    lines = [b'{"file": "a.png"', b"", b'["a.png"]', b'{"text": "x"}',
             b'{"file": "x.png", "text": "x"}', b'{"file": "a.png", "text": "\xff"}',
             b'{"file": "a.png", "text": 5}', b'{"file": "d.png"}', b'{"file": "\\ud800.png"}',
             b'{"file": "a\\u0000.png"}', b"[" * 100_000,
             b'{"file": "a.png", "text": "good"}']  # fmt: skip
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    items, rejected = listed(tmp_path / "x.jsonl")
    assert [(item.path, item.captions) for item in items] == [("a.png", ("good",))]
    assert [item.reason.split(":")[0] for item in rejected] == [
        f"line {n}" for n in (1, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    ]
    (tmp_path / "x.csv").write_bytes(
        b"file;text\na.png;a\n\nb.png;c;d\na.png\n" + b'a.png;"' + b"x" * 200_000 + b'"\n'
    )
    items, rejected = listed(tmp_path / "x.csv")
    assert [(item.path, item.captions) for item in items] == [("a.png", ("a",))]
    assert [item.reason.split(":")[0] for item in rejected if item.rule == "broken"] == [
        "line 4",
        "line 6",
    ]


def test_names_of_any_bytes_in_a_table(tmp_path: Path, read: Read) -> None:
    for name in (b"caf\xe9.png", b"b.png"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)
    (tmp_path / "x.csv").write_bytes(b"file,text\ncaf\xe9.png,fine\nb.png,caf\xe9\n")
    items, rejected = listed(tmp_path / "x.csv")
    assert [(item.path, read(item.location)) for item in items] == [
        ("caf\\xe9.png", b"caf\xe9.png")
    ]
    assert [item.reason.split(":")[0] for item in rejected] == ["line 3"]


def test_tables_in_an_object_store(tmp_path: Path, bucket: tuple[Any, str], read: Read) -> None:
    client, query = bucket
    fill(tmp_path, {"in/a b%.png": png(1), "c.png": png(2)})
    records = [
        {"file": "in/a b%.png", "text": "a"},
        {"file": f"s3://images/tables/c.png{query}", "text": "c"},
        {"file": "/etc/passwd", "text": "x"},
        {"file": "none.png", "text": "x"},
    ]
    write_list(tmp_path / "x.csv", records)
    upload(client, "images", tmp_path, "tables")
    items, rejected = listed(f"s3://images/tables/x.csv{query}")
    assert [(read(item.location), item.captions) for item in items] == [
        (png(1), ("a",)),
        (png(2), ("c",)),
    ]
    assert all(item.stamp for item in items)
    assert [item.reason.split(":")[0] for item in rejected] == ["line 4", "line 5"]


def test_a_stamp_tells_of_a_changed_image(tmp_path: Path) -> None:
    fill(tmp_path, {"a.png": png(1)})
    table = write_list(tmp_path / "x.csv", [{"file": "a.png", "text": "a"}])
    before = listed(table)[0][0].stamp
    fill(tmp_path, {"a.png": png(1)})
    assert before != listed(table)[0][0].stamp


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_an_imagefolder_as_datasets_reads_it(tmp_path: Path, read: Read, ending: str) -> None:
    import datasets

    shades = {"train/a.png": 1, "train/in/b.png": 2, "test/c.png": 3}
    fill(tmp_path / "s", {name: png(shade) for name, shade in shades.items()})
    write_list(
        tmp_path / f"s/train/metadata.{ending}",
        [{"file_name": "a.png", "text": "a"}, {"file_name": "in/b.png", "text": "b"}],
    )
    write_list(tmp_path / f"s/test/metadata.{ending}", [{"file_name": "c.png", "text": "c"}])
    theirs = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "s"), cache_dir=str(tmp_path / "cache")
    )
    texts = {
        row["image"].getpixel((0, 0)): row["text"] for split in theirs.values() for row in split
    }
    items, rejected = listed(tmp_path / "s")
    assert {item.path: item.captions for item in items} == {
        n: (texts[shade],) for n, shade in shades.items()
    }
    assert all(read(item.location) == png(shades[item.path]) for item in items)
    assert not rejected


def test_imagefolder_images_without_a_row_and_rows_that_lead_out(
    tmp_path: Path, read: Read
) -> None:
    source = fill(
        tmp_path / "s",
        {"a.png": png(1), "sub/b.png": png(2), "sub/c.png": png(3), "sub/c.txt": "c"},
    )
    fill(tmp_path, {"out.png": png(4)})
    write_list(
        source / "metadata.jsonl",
        [
            {"file_name": "a.png", "text": "a"},
            {"file_name": "sub/b.png", "text": "far"},
            {"file_name": "../out.png", "text": "x"},
            {"file_name": str(tmp_path / "out.png"), "text": "x"},
            {"file_name": "http://127.0.0.1/x.png"},
            {"file_name": "none.png"},
            {"file_name": "./a.png", "text": "again"},
        ],
    )
    write_list(source / "sub/metadata.jsonl", [{"file_name": "b.png", "caption": "near"}])
    items, rejected = listed(source)
    assert {item.path: item.captions for item in items} == {
        "sub/b.png": ("near",),
        "a.png": ("a",),
        "sub/c.png": (),
    }
    assert read(next(item for item in items if item.path == "sub/c.png").caption_file) == b"c"
    reasons = [item.reason for item in rejected]
    assert [("leads out" in r, "cannot be read" in r, "twice" in r) for r in reasons] == [
        (True, False, False)] * 3 + [(False, True, False), (False, False, True)]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["data.json", "captions.json", "image_captions.json", "captions.csv"]
)
def test_caption_files_next_to_images(tmp_path: Path, read: Read, name: str) -> None:
    fill(
        tmp_path,
        {
            "a.png": png(1),
            "b.png": png(2),
            "b.txt": "beside",
            "1.mask.jpg": png(3),
            "control/a.png": png(4),
        },
    )
    if name == "data.json":
        records = [
            {
                "image": "a.png",
                "text": "a",
                "conditioning_image": "control/a.png",
                "mask": "1.mask.jpg",
            }
        ]
        (tmp_path / name).write_text(json.dumps(records, indent=1))
    elif name == "captions.csv":
        write_list(
            tmp_path / name, [{"image_path": "a.png", "mask_path": "1.mask.jpg", "caption": "a"}]
        )
    else:
        (tmp_path / name).write_text(json.dumps({str(tmp_path / "a.png"): "a"}))
    items, rejected = listed(tmp_path)
    assert (read(items[0].location), items[0].captions) == (png(1), ("a",))
    by_path = {item.path: item for item in items[1:]}
    assert read(by_path["b.png"].caption_file) == b"beside"
    if name in ("data.json", "captions.csv"):
        assert read(items[0].mask) == png(3)
        assert "1.mask.jpg" not in by_path
    if name == "data.json":
        assert read(items[0].control) == png(4)
        assert set(by_path) == {"b.png"}
    assert not rejected


def test_a_broken_json_file_gives_what_comes_before(tmp_path: Path) -> None:
    fill(
        tmp_path,
        {"a.png": png(1), "x.json": '[{"image": "a.png", "text": "a"}, 5, {"image": "b.png", '},
    )
    items, rejected = listed(tmp_path / "x.json")
    assert [item.captions for item in items] == [("a",)]
    assert [item.reason.split(":")[0] for item in rejected] == [
        "record 2",
        "no valid JSON, not read further",
    ]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=5),
    st.integers(1, 20),
    st.booleans(),
)
def test_json_is_read_piece_by_piece_as_at_once(
    records: list[dict[str, Any]], chunk: int, indented: bool
) -> None:
    import tempfile

    from raytrain.data.sources._shared import rows as module

    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
        pytest.MonkeyPatch.context() as patch,
    ):
        json.dump(records, file, indent=2 if indented else None)
        file.flush()
        patch.setattr(module, "CHUNK", chunk)
        found = list(rows(file.name, "x.json"))
    assert [row.record for row in found if isinstance(row, Row)] == records
    assert len(found) == len(records)


def test_long_lists_stream_with_flat_memory(tmp_path: Path) -> None:
    records = [{"url": f"http://h.invalid/{n:06}.png", "text": "x" * 100} for n in range(5_000)]
    write_list(tmp_path / "x.csv", records)
    (tmp_path / "x.json").write_text(json.dumps(records))
    for name in ("x.csv", "x.json"):
        tracemalloc.start()
        assert sum(1 for _ in sources.items(SubsetConfig(source=str(tmp_path / name)))) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2_500_000
