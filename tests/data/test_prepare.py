"""Preparation brings the dataset to what the source and the settings say, encoding only what is missing.

The workers run in this process here; `test_prepare_on_ray.py` runs them on Ray.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raytrain import storage
from raytrain.config import Config
from raytrain.configfile import parse
from raytrain.data import index
from raytrain.data.bucket import nearest, sizes
from raytrain.data.picture import cut, decode, place
from raytrain.data.prepare import prepare
from raytrain.data.read import Dataset
from raytrain.data.report import PrepareReport
from raytrain.data.schema import Manifest
from raytrain.errors import UserError
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def counts(report: PrepareReport) -> tuple[int, int, int]:
    return report.encoded_pictures, report.encoded_captions, report.reused


def manifest(config: Config) -> Manifest:
    return Manifest.model_validate(storage.read_json(storage.join(config.dataset, "manifest.json")))


def live(config: Config) -> dict[str, index.Row]:
    """Path -> row, of the rows the manifest calls live; every shard must be listed."""
    stored = index.read(config.dataset)
    assert set(stored) == {shard.path for shard in manifest(config).shards}
    rows = [row for shard in manifest(config).shards for number, row in enumerate(stored[shard.path].rows)
            if number not in shard.dropped]  # fmt: skip
    assert len({row.path for row in rows}) == len(rows)
    return {row.path: row for row in rows}


def test_a_folder_becomes_a_dataset_that_reads_back(source: Path, make_config: Make) -> None:
    config = make_config(held_out=0.3)
    report = prepare(config)
    assert counts(report) == (12, 12, 0)
    assert (report.found, report.kept, report.rejected) == (12, 12, ())
    dataset = Dataset(config.dataset)
    assert dataset.counts("train").keys() == report.buckets.keys()
    assert sum(item.train + item.held_out for item in report.buckets.values()) == 12
    row = live(config)["04.png"]
    assert (row.caption, row.bucket) == ("picture 4", "80x48")
    assert (row.original_height, row.original_width, row.height, row.width) == (56, 96, 48, 80)
    assert dataset.manifest.text_shapes == {"text": (77, 32)}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_moments_and_text_equal_a_direct_encoding(
    source: Path, make_config: Make, family: str, tmp_path: Path, model: str
) -> None:
    from diffusers import AutoencoderKL

    from raytrain import families

    folder = model
    if family == "sdxl":
        folder = str(tmp_path / "sdxl")
        families.load(family).tiny(folder)
    config = parse(make_config(held_out=0.0).values() | {"model": {"family": family, "path": folder}})
    prepare(config)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    encoders = families.load(family).load_encoders(config.model, torch.device("cpu"), torch.float32)
    dataset = Dataset(config.dataset)
    checked = 0
    for bucket in dataset.counts():
        details = [entry for entry in dataset.details("train") if entry["bucket"] == bucket]
        rows = dataset.rows(bucket, np.arange(len(details)))
        for number, entry in enumerate(details):
            image = decode((source / entry["path"]).read_bytes(), 10**6)
            size = nearest(*image.size, sizes(config.data.buckets))
            pixels = torch.from_numpy(cut(image, place(*image.size, size), size).copy()).permute(2, 0, 1) / 127.5 - 1
            with torch.no_grad():
                expected = vae.encode(pixels[None].float()).latent_dist.parameters[0].numpy()
            np.testing.assert_allclose(rows.moments[number], expected, rtol=1e-3, atol=1e-3)
            for name, values in encoders.encode_captions([entry["caption"]]).items():
                np.testing.assert_allclose(rows.text[name][number], values[0].numpy(), rtol=1e-3, atol=1e-3)
            checked += 1
    assert checked == 12
    for name, values in encoders.encode_captions([""]).items():
        np.testing.assert_allclose(dataset.empty_text()[name], values[0].numpy(), rtol=1e-3, atol=1e-3)


def test_every_change_costs_only_itself(source: Path, make_config: Make) -> None:
    config = make_config()
    prepare(config)
    first = manifest(config)
    assert counts(prepare(config)) == (0, 0, 12)
    assert manifest(config) == first

    draw(source / "zz.png", 100, caption="new")
    assert counts(prepare(config)) == (1, 1, 12)

    draw(source / "03.png", 101)
    assert counts(prepare(config)) == (1, 1, 12)

    before = {path.name: path.read_bytes() for path in Path(config.dataset).rglob("bucket=*/*.parquet")}
    (source / "05.txt").write_text("another caption")
    assert counts(prepare(config)) == (0, 1, 12)
    after = {path.name: path.read_bytes() for path in Path(config.dataset).rglob("bucket=*/*.parquet")}
    assert all(after[name] == content for name, content in before.items())
    assert live(config)["05.png"].caption == "another caption"

    (source / "07.png").unlink()
    assert counts(prepare(config)) == (0, 0, 12)
    assert "07.png" not in live(config)

    os.rename(source / "08.png", source / "renamed.png")
    os.rename(source / "08.txt", source / "renamed.txt")
    assert counts(prepare(config)) == (0, 0, 12)
    assert live(config)["renamed.png"].caption == "picture 8"
    assert manifest(config).fingerprint != first.fingerprint


def test_the_fingerprint_follows_the_content_not_the_history(source: Path, make_config: Make) -> None:
    config = make_config()
    prepare(config)
    first = manifest(config)
    draw(source / "new.png", 100, caption="new")
    prepare(config)
    assert manifest(config).fingerprint != first.fingerprint
    (source / "new.png").unlink()
    prepare(config)
    assert manifest(config) == first.model_copy(update={"settings": manifest(config).settings})


def test_copied_moments_are_the_old_ones_bit_for_bit(source: Path, make_config: Make) -> None:
    def moments() -> dict[str, bytes]:
        values = {}
        for shard in manifest(config).shards:
            table = pq.ParquetFile(Path(config.dataset) / shard.path).read(columns=["id", "moments"])
            values |= dict(zip(table["id"].to_pylist(), table["moments"].to_pylist(), strict=True))
        return values

    config = make_config(held_out=0.0)
    prepare(config)
    before = moments()
    config = make_config(held_out=0.0, captions={"trigger": "sks"})
    assert counts(prepare(config)) == (0, 12, 0)
    assert moments() == before
    assert live(config)["00.png"].caption == "sks, picture 0"


def test_another_vae_encodes_every_picture_again_and_says_so(source: Path, make_config: Make, tmp_path: Path) -> None:
    from raytrain.families import sd15

    config = make_config()
    prepare(config)
    sd15.tiny(str(tmp_path / "other"), seed=1)
    other = parse(config.values() | {"model": {"path": config.model.path, "vae": str(tmp_path / "other")}})
    report = prepare(other)
    assert counts(report) == (12, 0, 0)
    assert any("another VAE" in note for note in report.notes)
    assert live(other)


def test_every_kind_of_bad_input_is_rejected_with_its_reason(source: Path, make_config: Make) -> None:
    (source / "b-empty.jpg").write_bytes(b"")
    (source / "b-text.png").write_text("no picture")
    sink = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(sink, "PNG")
    (source / "b-truncated.png").write_bytes(sink.getvalue()[:2000])
    draw(source / "b-caption.png", 200)
    (source / "b-caption.txt").write_bytes(b"caf\xe9")
    draw(source / "b-small.png", 201, (20, 64))
    draw(source / "b-large.png", 202, (200, 200))
    (source / "b-twin.png").write_bytes((source / "03.png").read_bytes())
    (source / "metadata.jsonl").write_text('{"file_name": \n')
    config = make_config(min_side=32, max_pixels=30_000)
    report = prepare(config)
    reasons = {item.path: item.reason for item in report.rejected}
    assert report.kept == 12
    for path, words in {
        "b-empty.jpg": "empty",
        "b-text.png": "not a picture",
        "b-truncated.png": "damaged",
        "b-caption.png": "no UTF-8",
        "b-small.png": "data.min_side",
        "b-large.png": "data.max_pixels",
        "b-twin.png": "duplicate of 03.png",
        "metadata.jsonl": "line 1",
    }.items():
        assert words in reasons.pop(path)
    assert not reasons
    table = pq.read_table(Path(config.dataset) / "rejected.parquet").to_pylist()
    assert {row["path"] for row in table} == {item.path for item in report.rejected}
    assert manifest(config).rejected == 8


def test_what_failed_once_is_not_tried_again_until_it_changes(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.data import flow

    whole = (source / "03.png").read_bytes()
    (source / "03.png").write_bytes(whole[:-40])
    config = make_config()
    assert [item.path for item in prepare(config).rejected] == ["03.png"]
    with monkeypatch.context() as patch:
        patch.setattr(flow, "map_actors", lambda *arguments: pytest.fail("a worker was started"))
        assert [item.path for item in prepare(config).rejected] == ["03.png"]
    (source / "03.png").write_bytes(whole)
    assert counts(prepare(config)) == (1, 1, 11)


def test_a_row_of_nan_is_quarantined_and_the_rest_goes_on(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.families import _stable_diffusion

    original = _stable_diffusion.moments

    def moments(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        result = original(vae, pixels)
        result[0, 0, 0, 0] = float("nan") if len(result) % 2 else 1e5
        return result

    monkeypatch.setattr(_stable_diffusion, "moments", moments)
    config = make_config(encode={"batch": 4})
    report = prepare(config)
    assert report.kept == 9
    assert len(report.rejected) == 3
    assert all("NaN or values beyond half precision" in item.reason for item in report.rejected)


def test_nothing_usable_is_a_user_error_and_the_old_dataset_stays(source: Path, make_config: Make) -> None:
    config = make_config()
    prepare(config)
    before = manifest(config)
    for path in source.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"all 12 of data\.source were rejected"):
        prepare(config)
    assert manifest(config) == before
    assert Dataset(config.dataset).counts()


def test_a_full_disk_leaves_the_old_dataset_valid_and_the_next_run_goes_on(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    prepare(config)
    before = manifest(config)
    for number in range(20, 26):
        draw(source / f"{number}.png", number, [(64, 64), (96, 56)][number % 2], "more")
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="No space left on device"):
            prepare(config)
    assert manifest(config) == before
    assert sum(Dataset(config.dataset).counts().values()) > 0
    assert not list(Path(config.dataset).rglob("*.tmp-*"))
    report = prepare(config)
    assert counts(report) == (3, 3, 15), "the shard that was finished before the disk was full is used"
    assert report.kept == 18


def test_a_killed_first_run_is_continued(source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from raytrain.data import write

    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(write, "finish", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    shard = next(Path(config.dataset).rglob("bucket=80x48/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    (shard.parent / "left.parquet.tmp-1234").write_bytes(b"x")
    report = prepare(config)
    assert counts(report) == (4, 4, 8)
    assert len(live(config)) == 12
    assert len(list(shard.parent.iterdir())) == 1


def test_shards_are_cut_at_shard_rows_and_plain(source: Path, make_config: Make) -> None:
    config = make_config(encode={"shard_rows": 3, "group_rows": 2}, buckets={"sizes": [[64, 64]], "step": 16})
    prepare(config)
    shards = manifest(config).shards
    assert [shard.rows for shard in shards] == [3] * 4
    metadata = pq.ParquetFile(Path(config.dataset) / shards[0].path).metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [2, 1]
    for number in range(metadata.num_columns):
        column = metadata.row_group(0).column(number)
        assert column.compression == "UNCOMPRESSED"
        assert not column.has_dictionary_page
        assert not column.is_stats_set


def test_captions_come_from_metadata_where_there_is_no_sidecar(source: Path, make_config: Make) -> None:
    (source / "00.txt").unlink()
    (source / "01.txt").write_text("\n")
    (source / "02.txt").unlink()
    (source / "metadata.jsonl").write_text('{"file_name": "00.png", "text": "from metadata"}\n')
    config = make_config(captions={"trigger": "sks"})
    report = prepare(config)
    rows = live(config)
    assert [rows[f"0{number}.png"].caption for number in range(3)] == ["sks, from metadata", "sks", "sks"]
    assert report.uncaptioned == 2


def test_buckets_the_vae_cannot_encode_are_refused_at_once(source: Path, make_config: Make) -> None:
    config = make_config(buckets={"sizes": [[60, 60]], "step": 20})
    with pytest.raises(UserError, match="multiple of 8"):
        prepare(config)
