"""The same six images out of every kind of source give the same dataset;
a source and a dataset in an object store."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tomli_w
import webdataset

from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from tests.data.conftest import SIZES, draw
from tests.data.contents import contents
from tests.data.servers import content, s3, upload, web

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
NAMES = tuple(f"{number}.png" for number in range(6))


def caption(name: str) -> str:
    return f"image {name[0]}, with a comma"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Six images without captions."""
    for number, name in enumerate(NAMES):
        draw(tmp_path / "plain" / name, number, SIZES[number % 3])
    return tmp_path / "plain"


def folder(plain: Path, place: Path) -> Path:
    shutil.copytree(plain, place / "a" / "b")
    for name in NAMES:
        (place / "a" / "b" / name).with_suffix(".txt").write_text(caption(name))
    return place


def zipped(plain: Path, place: Path) -> Path:
    with zipfile.ZipFile(place.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder(plain, place).rglob("*.*")):
            archive.write(file, file.name)
    return place.with_suffix(".zip")


def tarred(ending: str, mode: str) -> Callable[[Path, Path], Path]:
    def make(plain: Path, place: Path) -> Path:
        with tarfile.open(f"{place}{ending}", mode) as archive:  # type: ignore[call-overload]
            archive.add(folder(plain, place), "inner")
        return Path(f"{place}{ending}")

    return make


def imagefolder(plain: Path, place: Path) -> Path:
    shutil.copytree(plain, place / "train")
    lines = [json.dumps({"file_name": name, "text": caption(name)}) for name in NAMES]
    (place / "train/metadata.jsonl").write_text("\n".join(lines))
    return place


def parquet(plain: Path, place: Path) -> Path:
    place.mkdir()
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    images = [{"bytes": (plain / name).read_bytes(), "path": name} for name in NAMES]
    records = {"image": images, "text": [caption(name) for name in NAMES]}
    datasets.Dataset.from_dict(records, features=features).to_parquet(str(place / "train.parquet"))
    return place


def shards(plain: Path, place: Path) -> Path:
    place.mkdir()
    with webdataset.ShardWriter(f"{place}/x-%03d.tar", maxcount=4, verbose=0) as writer:
        for name in NAMES:
            writer.write(
                {
                    "__key__": name[0],
                    "png": (plain / name).read_bytes(),
                    "json": {"caption": caption(name)},
                }
            )
    return place


def table(plain: Path, place: Path) -> Path:
    with place.with_suffix(".csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("path", "caption"), *((f"{plain.name}/{name}", caption(name)) for name in NAMES)]
        )
    return place.with_suffix(".csv")


def caption_file(plain: Path, place: Path) -> Path:
    shutil.copytree(plain, place)
    (place / "captions.json").write_text(json.dumps({name: caption(name) for name in NAMES}))
    return place


def kohya(plain: Path, place: Path) -> Path:
    shutil.copytree(plain, place / "images")
    (place / "meta.json").write_text(
        json.dumps({name: {"caption": caption(name)} for name in NAMES})
    )
    subset = {"image_dir": "images", "metadata_file": "meta.json", "num_repeats": 1}
    (place / "dataset.toml").write_text(tomli_w.dumps({"datasets": [{"subsets": [subset]}]}))
    return place / "dataset.toml"


def repeated(plain: Path, place: Path) -> Path:
    folder(plain, place)
    (place / "a" / "b").rename(place / "1_thing")
    (place / "a").rmdir()
    return place


SOURCES: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "folder": ("folder", folder),
    "zip": ("archive", zipped),
    "tar": ("archive", tarred(".tar", "w")),
    "tar.gz": ("archive", tarred(".tar.gz", "w:gz")),
    "imagefolder": ("imagefolder", imagefolder),
    "parquet": ("parquet", parquet),
    "webdataset": ("webdataset", shards),
    "table": ("table", table),
    "caption file": ("caption_files", caption_file),
    "kohya's TOML": ("kohya", kohya),
    "kohya's folders": ("kohya", repeated),
}


@pytest.fixture
def expected(plain: Path, tmp_path: Path, make_config: Make) -> dict[bytes, Any]:
    """What the plain folder gives, by the hash of the images."""
    source = folder(plain, tmp_path / "expected")
    return arrays(make_config(source=str(source), dataset=str(tmp_path / "expected-dataset")))


def arrays(config: Config) -> dict[bytes, Any]:
    report = prepare(config)
    assert (report.found, report.kept, report.rules, report.uncaptioned) == (6, 6, {}, 0)
    again = prepare(config)
    assert (again.made, again.fingerprint, again.snapshot) == (
        {},
        report.fingerprint,
        report.snapshot,
    )
    named = {"path", "location"}
    rows = {row["id"]: {name: value for name, value in row.items() if name not in named}
            for (path, _), row in contents(config).items() if path}  # fmt: skip
    return rows | {b"fingerprint": report.fingerprint}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_dataset(
    name: str, plain: Path, tmp_path: Path, make_config: Make, expected: dict[bytes, Any]
) -> None:
    from raytrain.data import sources

    kind, make = SOURCES[name]
    source = str(make(plain, tmp_path / "source"))
    assert sources.recognize(source) == kind
    assert arrays(make_config(source=source, format="auto")) == expected


def test_images_of_the_web_give_the_same_dataset_and_are_read_again(
    plain: Path, tmp_path: Path, make_config: Make, expected: dict[bytes, Any]
) -> None:
    with web({f"/{name}": content((plain / name).read_bytes()) for name in NAMES}) as site:
        lines = [json.dumps({"url": f"{site}/{name}", "text": caption(name)}) for name in NAMES]
        (tmp_path / "list.jsonl").write_text("\n".join(lines))
        config = make_config(source=str(tmp_path / "list.jsonl"), format="auto")
        assert arrays(config) == expected
        assert prepare(config).scanned == 6, (
            "nothing says that the bytes behind an address are the same"
        )
        trusting = make_config(
            source=str(tmp_path / "list.jsonl"), format="auto", fetch={"trust_addresses": True}
        )
        assert (prepare(trusting).scanned, prepare(trusting).scanned) == (6, 0)


@pytest.fixture
def store() -> Iterator[tuple[Any, str]]:
    with s3("lake") as (client, query):
        yield client, query


@pytest.mark.slow
def test_source_and_dataset_in_an_object_store(
    plain: Path,
    tmp_path: Path,
    make_config: Make,
    expected: dict[bytes, Any],
    store: tuple[Any, str],
) -> None:
    client, query = store
    upload(client, "lake", folder(plain, tmp_path / "source"), "images")
    config = make_config(
        source=f"s3://lake/images{query}", dataset=f"s3://lake/made/dataset{query}"
    )
    report = prepare(config)
    assert (report.found, report.scanned, report.kept, report.made) == (
        6,
        6,
        6,
        {"latents": 6, "text": 6},
    )
    assert report.fingerprint == expected[b"fingerprint"]
    again = prepare(config)
    assert (again.scanned, again.made, again.snapshot) == (0, {}, 1)
    client.put_object(Bucket="lake", Key="images/a/b/2.txt", Body=b"another")
    changed = prepare(config)
    assert (changed.scanned, changed.made, changed.snapshot) == (1, {"text": 1}, 2)
    old = Dataset(config.dataset, "1")
    assert old.counts() == Dataset(config.dataset).counts()
    read = 0
    for split in ("train", "held_out"):
        for bucket, count in old.counts(split).items():
            rows = old.rows(bucket, np.arange(count), split)
            for place, identity in enumerate(rows.ids):
                [(latents, _, _)] = expected[bytes.fromhex(identity)]["latents"]
                [(text, _, _)] = expected[bytes.fromhex(identity)]["text"]
                assert rows.columns["latents"][place].tobytes() == latents["latents"]
                assert rows.columns["text"][place].tobytes() == text["text"]
                read += 1
    assert read == 6
    keys = [
        entry["Key"] for entry in client.list_objects_v2(Bucket="lake", Prefix="made/")["Contents"]
    ]
    assert not [key for key in keys if "/work/" in key and not key.endswith("/")], (
        "working tables are tidied away"
    )
