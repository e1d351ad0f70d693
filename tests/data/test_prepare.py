"""Preparation brings the dataset to what the source and the settings say,
encoding only what is missing.

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

from raytrain import plugins, storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.buckets import fits
from raytrain.data.image.image import decode
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.prepare import prepare
from raytrain.data.store.schema import Array, Manifest
from raytrain.errors import UserError
from tests.data.conftest import draw

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def counts(report: PrepareReport) -> tuple[int, int, int]:
    """Return images encoded, captions encoded, arrays reused."""
    return report.made.get("latents", 0), report.made.get("text", 0), report.reused


def manifest(config: Config) -> Manifest:
    return Manifest.model_validate(
        storage.read_json(storage.join(config.dataset, "manifest.json"))
    )


def live(config: Config) -> dict[str, dict[str, Any]]:
    """Path -> row of the newest snapshot, with its first caption;
    every array it names must be in its shard."""
    newest, rows = manifest(config), []
    for part in newest.parts:
        table = pq.ParquetFile(Path(config.dataset) / part.path).read()
        assert len(table) == part.rows
        rows += [
            row | {"bucket": part.bucket, "caption": row["captions"][0]}
            for row in table.to_pylist()
        ]
    sizes = {
        (store, number): pq.read_metadata(Path(config.dataset) / path).num_rows
        for store, paths in newest.shards.items()
        for number, path in enumerate(paths)
    }
    for row in rows:
        for store in newest.shards:
            assert all(place["row"] < sizes[store, place["shard"]] for place in row[store])
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def test_a_folder_becomes_a_dataset_that_reads_back(source: Path, make_config: Make) -> None:
    config = make_config(held_out=0.3)
    report = prepare(config)
    assert counts(report) == (12, 12, 0)
    assert (report.found, report.kept, report.rejected) == (12, 12, ())
    dataset = Dataset(config.dataset)
    assert dataset.counts("train").keys() == report.buckets.keys()
    assert sum(item.train + item.held_out for item in report.buckets.values()) == 12
    row = live(config)["04.png"]
    assert (row["caption"], row["bucket"]) == ("image 4", "80x48")
    assert (row["original_height"], row["original_width"]) == (56, 96)
    assert dataset.manifest.columns["text"].arrays == {
        "text": Array(dtype="float16", shape=(77, 32))
    }
    assert dataset.manifest.columns["latents"].arrays["latents"].shape_in("80x48") == (8, 6, 10)
    assert not (Path(config.dataset) / "work").exists() or not any(
        (Path(config.dataset) / "work").iterdir()
    )


@pytest.mark.parametrize("family", plugins.names("families"))
def test_latents_and_text_equal_a_direct_encoding(
    source: Path, make_config: Make, family: str, tmp_path: Path, model: str
) -> None:
    from diffusers import AutoencoderKL

    from raytrain import families
    from tests.encoders import Encoders

    folder = model
    if family != "sd15":
        folder = str(tmp_path / family)
        families.load(family).tiny(folder)
    config = parse(
        make_config(held_out=0.0).values() | {"model": {"family": family, "path": folder}}
    )
    prepare(config)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    encoders = Encoders(config.model, torch.device("cpu"), torch.float32)
    dataset = Dataset(config.dataset)
    checked = 0
    for bucket in dataset.counts():
        details = [entry for entry in dataset.details("train") if entry["bucket"] == bucket]
        rows = dataset.rows(bucket, np.arange(len(details)))
        for number, entry in enumerate(details):
            image = decode((source / entry["path"]).read_bytes(), 10**6)
            [fit] = fits(*image.size, config.data.buckets)
            whole = image.resize(fit.resized, Image.Resampling.LANCZOS)
            left, top = (
                (fit.resized[0] - fit.bucket[0]) // 2,
                (fit.resized[1] - fit.bucket[1]) // 2,
            )
            shown = whole.crop((left, top, left + fit.bucket[0], top + fit.bucket[1]))
            pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1) / 127.5 - 1
            with torch.no_grad():
                expected = vae.encode(pixels[None].float()).latent_dist.parameters[0].numpy()
            np.testing.assert_allclose(
                rows.columns["latents"][number], expected, rtol=1e-3, atol=1e-3
            )
            for name, values in encoders.encode_captions([entry["captions"][0]]).items():
                np.testing.assert_allclose(
                    rows.columns[name][number], values[0].numpy(), rtol=1e-3, atol=1e-3
                )
            checked += 1
    assert checked == 12
    for name, values in encoders.encode_captions([""]).items():
        np.testing.assert_allclose(
            dataset.empties(["text"])[name], values[0].numpy(), rtol=1e-3, atol=1e-3
        )


def test_the_fingerprint_follows_the_content_not_the_history(
    source: Path, make_config: Make
) -> None:
    config = make_config()
    prepare(config)
    first = manifest(config)
    draw(source / "new.png", 100, caption="new")
    prepare(config)
    assert manifest(config).fingerprint != first.fingerprint
    (source / "new.png").unlink()
    prepare(config)
    assert manifest(config).fingerprint == first.fingerprint
    assert manifest(config).number == 3, (
        "a snapshot names its shards for good; another one may lie elsewhere"
    )


def test_another_vae_encodes_every_image_again_and_says_so(
    source: Path, make_config: Make, tmp_path: Path
) -> None:
    from raytrain.families import sd15

    config = make_config()
    prepare(config)
    sd15.tiny(str(tmp_path / "other"), seed=1)
    other = parse(
        config.values() | {"model": {"path": config.model.path, "vae": str(tmp_path / "other")}}
    )
    report = prepare(other)
    assert counts(report) == (12, 0, 12)
    assert any("another VAE" in note for note in report.notes)
    assert live(other)


def test_every_kind_of_bad_input_is_rejected_with_its_reason(
    source: Path, make_config: Make
) -> None:
    (source / "b-empty.jpg").write_bytes(b"")
    (source / "b-text.png").write_text("no image")
    sink = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(sink, "PNG")
    (source / "b-truncated.png").write_bytes(sink.getvalue()[:2000])
    draw(source / "b-caption.png", 200)
    (source / "b-caption.txt").write_bytes(b"caf\xe9")
    draw(source / "b-small.png", 201, (20, 64))
    draw(source / "b-large.png", 202, (200, 200))
    (source / "b-twin.png").write_bytes((source / "03.png").read_bytes())
    config = make_config(quality={"min_side": 32}, max_pixels=30_000)
    report = prepare(config)
    table = pq.read_table(report.rejected_path).to_pylist()
    reasons = {row["path"]: row["reason"] for row in table}
    assert report.kept == 12
    for path, words in {
        "b-empty.jpg": "empty",
        "b-text.png": "not an image",
        "b-truncated.png": "damaged",
        "b-caption.png": "no UTF-8",
        "b-small.png": "data.quality.min_side",
        "b-large.png": "data.max_pixels",
        "b-twin.png": "duplicate of 03.png",
    }.items():
        assert words in reasons.pop(path)
    assert not reasons
    assert manifest(config).rejected == 7
    assert report.rules == {"broken": 5, "size": 1, "duplicate": 1}


def test_what_failed_once_is_not_tried_again_until_it_changes(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.data.pipeline import flow

    whole = (source / "03.png").read_bytes()
    (source / "03.png").write_bytes(whole[:-40])
    config = make_config()
    assert [item.path for item in prepare(config).rejected] == ["03.png"]
    with monkeypatch.context() as patch:
        run = flow.map_actors
        patch.setattr(
            flow,
            "map_actors",
            lambda executor, jobs, *rest: (
                pytest.fail("a worker was started") if jobs else run(executor, jobs, *rest)
            ),
        )
        assert [item.path for item in prepare(config).rejected] == ["03.png"]
    (source / "03.png").write_bytes(whole)
    assert counts(prepare(config)) == (1, 0, 23)


def test_a_row_of_nan_is_quarantined_and_the_rest_goes_on(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.families import sd15

    original = sd15.encode_image

    def encode_image(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
        result = original(vae, pixels)
        result[0, 0, 0, 0] = float("nan") if len(result) % 2 else 1e5
        return result

    monkeypatch.setattr(sd15, "encode_image", encode_image)
    config = make_config(encode={"batch": 4})
    report = prepare(config)
    assert report.kept == 9
    assert len(report.rejected) == 3
    assert all("NaN or values beyond half precision" in item.reason for item in report.rejected)


def test_nothing_usable_is_a_user_error_and_the_old_dataset_stays(
    source: Path, make_config: Make
) -> None:
    config = make_config()
    prepare(config)
    before = manifest(config)
    for path in source.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match=r"all 12 of the source were left out"):
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
    assert report.kept == 18
    assert sum(counts(report)) == 18 + 13, "six captions are the same"


def test_a_killed_first_run_is_continued(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.data.store import snapshot

    config = make_config()
    with monkeypatch.context() as patch:
        patch.setattr(
            snapshot, "publish", lambda **arguments: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    shard = next(Path(config.dataset).glob("latents/bucket=80x48/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    (shard.parent / "left.parquet.tmp-1234").write_bytes(b"x")
    report = prepare(config)
    assert counts(report) == (4, 0, 20)
    assert report.scanned == 0
    assert len(live(config)) == 12


def test_shards_are_cut_at_shard_rows_and_plain(source: Path, make_config: Make) -> None:
    config = make_config(
        encode={"shard_rows": 3, "group_rows": 2}, buckets={"sizes": [[64, 64]], "step": 16}
    )
    prepare(config)
    for column in ("latents", "text"):
        shards = manifest(config).shards[column]
        found = [pq.read_metadata(Path(config.dataset) / path) for path in shards]
        assert [metadata.num_rows for metadata in found] == [3] * 4
        assert [
            found[0].row_group(number).num_rows for number in range(found[0].num_row_groups)
        ] == [2, 1]
        for number in range(found[0].num_columns):
            chunk = found[0].row_group(0).column(number)
            assert chunk.compression == "UNCOMPRESSED"
            assert not chunk.has_dictionary_page
            assert not chunk.is_stats_set


def test_a_snapshot_keeps_what_it_said(source: Path, make_config: Make) -> None:
    config = make_config(held_out=0.0)
    prepare(config)
    first = {row["path"]: row["captions"] for row in Dataset(config.dataset).details("train")}
    (source / "05.txt").write_text("another caption")
    prepare(config)
    assert {
        row["path"]: row["captions"] for row in Dataset(config.dataset, "1").details("train")
    } == first
    assert live(config)["05.png"]["caption"] == "another caption"
    with pytest.raises(
        UserError, match=r"data\.snapshot must be latest, growing or a snapshot of .* \(1, 2\)"
    ):
        Dataset(config.dataset, "3")


def test_an_unfinished_snapshot_is_trained_on_only_when_allowed(
    source: Path, make_config: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raytrain.data.store import snapshot

    config = make_config(held_out=0.0, encode={"shard_rows": 2, "publish_minutes": 1e-9})
    seen: list[tuple[int, bool]] = []
    publish = snapshot.publish

    def spy(**settings: Any) -> Any:
        result = publish(**settings)
        if result["number"]:
            newest = manifest(config)
            seen.append((sum(count.train for count in newest.buckets.values()), newest.complete))
            if not newest.complete:
                with pytest.raises(UserError, match=r"data\.partial = true"):
                    Dataset(config.dataset)
                opened = Dataset(config.dataset, partial=True)
                assert sum(opened.counts().values()) == seen[-1][0]
        return result

    monkeypatch.setattr(snapshot, "publish", spy)
    prepare(config)
    assert [rows for rows, _ in seen] == sorted(rows for rows, _ in seen)
    assert len(seen) > 2
    assert seen[-1] == (12, True)
    assert not any(complete for _, complete in seen[:-1])


def test_buckets_the_vae_cannot_encode_are_refused_at_once(
    source: Path, make_config: Make
) -> None:
    config = make_config(buckets={"sizes": [[60, 60]], "step": 20})
    with pytest.raises(UserError, match="multiple of 8"):
        prepare(config)


@pytest.mark.parametrize("held_out", [0.01, 0.99])
def test_one_image_alone_is_trained_on_with_a_word(
    source: Path, make_config: Make, held_out: float
) -> None:
    for path in source.iterdir():
        if path.stem != "00":
            path.unlink()
    config = make_config(held_out=held_out)
    report = prepare(config)
    assert [(count.train, count.held_out) for count in report.buckets.values()] == [(1, 0)]
    assert any("nothing is held out" in note for note in report.notes)
