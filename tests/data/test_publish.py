"""What is published loads with the `datasets` library: the same images, the same captions,
the same split."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.data.tools import publish as publishing
from raytrain.data.tools.publish import publish
from raytrain.errors import UserError

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
FORMATS = ("imagefolder", "parquet")


def loaded(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache))


def written(folder: Path) -> dict[str, float]:
    """File -> time of writing, of all images and shards."""
    return {
        str(f): f.stat().st_mtime_ns
        for f in folder.rglob("*")
        if f.suffix in (".png", ".parquet", ".jpg", ".webp")
    }


@pytest.mark.parametrize("format", FORMATS)
def test_a_published_folder_loads_back(
    source: Path, make_config: Make, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.open(source / "03.png").save(source / "12.webp", lossless=True)
    (source / "12.txt").write_text('größe, "quoted" <b>\nsecond line', encoding="utf-8")
    Image.open(source / "04.png").resize((70, 70)).save(source / "13.avif")
    config = make_config(
        held_out=0.3,
        captions={"variants": 2, "trigger": "sks"},
        buckets={"resolutions": [32, 64], "step": 16},
    )
    prepare(config)
    done = publish(config.dataset, str(tmp_path / "out"), format=format)
    found = loaded(tmp_path / "out", tmp_path / "cache", monkeypatch)
    assert set(found) == {"train", "test"}
    dataset = Dataset(config.dataset)
    for split, name in (("train", "train"), ("held_out", "test")):
        expected = {row["path"]: row["captions"] for row in dataset.details(split)}
        assert {row["path"]: row["captions"] for row in found[name]} == expected
        assert len(found[name]) == done.images[name] == len(expected), (
            "each image once, whatever buckets it is in"
        )
        for row in found[name]:
            assert row["text"] == row["captions"][0]
            original = Image.open(source / row["path"])
            assert (row["width"], row["height"]) == original.size == row["image"].size
            np.testing.assert_array_equal(
                np.asarray(row["image"].convert("RGB")), np.asarray(original.convert("RGB"))
            )
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["license"] == "unknown"
    assert head["size_categories"] == ["n<1K"]
    assert head["task_categories"] == ["text-to-image"]
    assert "trigger word is `sks`" in card


def test_the_files_are_the_sources_own_bytes(
    source: Path, make_config: Make, tmp_path: Path
) -> None:
    config = make_config()
    prepare(config)
    publish(config.dataset, str(tmp_path / "out"))
    published = {f.stem: f.read_bytes() for f in (tmp_path / "out").rglob("*.png")}
    assert published == {
        hashlib.sha256(c).hexdigest(): c for f in source.glob("*.png") for c in [f.read_bytes()]
    }
    assert str(source) not in "".join(
        f.read_text() for f in (tmp_path / "out").rglob("*.json*")
    ), "no place on this machine"


@pytest.mark.parametrize("format", FORMATS)
def test_a_publication_goes_on_where_it_stopped(
    source: Path, make_config: Make, tmp_path: Path, format: str
) -> None:
    config, out = make_config(), tmp_path / "out"
    prepare(config)
    moved = source / "07.png"
    content = moved.read_bytes()
    moved.unlink()
    with pytest.raises(UserError, match=r"(?s)1 of the images .* 07\.png: the file is not there"):
        publish(config.dataset, str(out), format=format)
    assert not (out / "README.md").exists()
    assert not list(out.rglob("metadata.jsonl")) or format == "imagefolder"
    before = written(out)
    moved.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="no longer those that were prepared"):
        publish(config.dataset, str(out), format=format)
    moved.write_bytes(content)
    assert sum(publish(config.dataset, str(out), format=format).images.values()) == 12
    after = written(out)
    assert {name: after[name] for name in before} == before, "what was there was not written again"
    assert publish(config.dataset, str(out), format=format).kept == 12
    assert written(out) == after


@pytest.mark.parametrize("format", FORMATS)
def test_another_snapshot_or_format_replaces_what_is_there(
    source: Path, make_config: Make, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = make_config(held_out=0.0), tmp_path / "out"
    prepare(config)
    publish(config.dataset, str(out), format=FORMATS[0])
    (source / "03.png").unlink()
    (source / "04.txt").write_text("other words")
    prepare(config)
    publish(config.dataset, str(out), format=format)
    rows = loaded(out, tmp_path / "cache", monkeypatch)["train"]
    assert sorted(rows["path"]) == sorted(f"{n:02}.png" for n in range(12) if n != 3)
    assert dict(zip(rows["path"], rows["text"], strict=True))["04.png"] == "other words"
    names = {f.relative_to(out).parts[0] for f in out.rglob("*") if f.is_file()}
    assert names == {
        "README.md",
        ".raytrain-publish.json",
        "data" if format == "parquet" else "train",
    }


def test_shards_have_a_sane_size(
    source: Path, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(held_out=0.0)
    prepare(config)
    monkeypatch.setattr(publishing, "PROBED", 2)
    monkeypatch.setattr(publishing, "SHARD_BYTES", 3 * (source / "00.png").stat().st_size)
    publish(config.dataset, str(tmp_path / "out"), format="parquet")
    assert 3 <= len(list((tmp_path / "out" / "data").iterdir())) <= 6
    assert len(loaded(tmp_path / "out", tmp_path / "cache", monkeypatch)["train"]) == 12


def test_many_images_go_to_folders(
    source: Path, make_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = make_config(held_out=0.0), tmp_path / "out"
    prepare(config)
    publish(config.dataset, str(out))
    monkeypatch.setattr(publishing, "FOLDER_FILES", 5)
    publish(config.dataset, str(out))
    assert not list((out / "train").glob("*.png"))
    for line in (out / "train" / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        content = (out / "train" / row["file_name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest().startswith(row["file_name"].split("/")[0])
        assert Image.open(io.BytesIO(content)).size == (row["width"], row["height"])
    assert len(loaded(out, tmp_path / "cache", monkeypatch)["train"]) == 12


def test_another_folder_is_not_touched(source: Path, make_config: Make, tmp_path: Path) -> None:
    config = make_config()
    prepare(config)
    with pytest.raises(UserError, match="a folder of its own"):
        publish(config.dataset, str(source))
    assert not (source / "README.md").exists()
    with pytest.raises(UserError, match="no prepared dataset"):
        publish(str(source), str(tmp_path / "out"))
