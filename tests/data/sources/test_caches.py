"""Latents that other trainers cached are trained on as they are; what cannot be is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline.report import PrepareReport
from raytrain.data.prepare import prepare
from raytrain.families import sd15
from tests.data.conftest import draw
from tests.data.conftest import here as here
from tests.data.conftest import make_config as make_config
from tests.data.conftest import model as model
from tests.data.contents import contents

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
SCALE = 0.18215


def latents(seed: int, height: int = 8, width: int = 6, channels: int = 4) -> np.ndarray:
    shape = (channels, height, width)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rejected(report: PrepareReport) -> dict[str, str]:
    return {row["path"]: row["reason"] for row in pq.read_table(report.rejected_path).to_pylist()}


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def trained_on(config: Config, steps: int = 8) -> dict[str, list[Any]]:
    """Return what the steps of a run read of each image: (scaled latents, size ids, mask)."""
    dataset = Dataset.of(config)
    sampler = BatchSampler(dataset.counts(), batch=1, seed=0, epochs=steps)
    names = {row["id"].hex(): path for path, row in rows(config).items()}
    found: dict[str, list[Any]] = {}
    for number in range(sampler.total_steps):
        batch = Loader(dataset, sampler).step(number).batch
        stored = batch.columns["latents"]
        normal = torch.ones_like(stored[:, :4]).float()
        scaled = sd15.latents(stored, normal, config.model)[0].numpy()
        mask = batch.columns["mask"][0].numpy() if "mask" in batch.columns else None
        sizes = batch.columns["sizes"][0].tolist()
        found.setdefault(names[batch.ids[0]], []).append((scaled, sizes, mask))
    return found


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.allclose(one, other * SCALE, rtol=1e-3, atol=1e-4))


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A folder as sd-scripts leaves it: two cached images, of one the file is gone, and one that
    is not cached."""
    folder = tmp_path / "images"
    draw(folder / "wide.png", 1, (100, 120), "a wide one")
    draw(folder / "plain.png", 2, (64, 64), "not cached")
    mask = np.zeros((64, 48), np.float32)
    mask[:32] = 1
    facts = {"original_size": np.array([100, 120]), "crop_ltrb": np.array([3, 5, 51, 69])}
    both = {"latents": latents(1), "latents_flipped": latents(2)}
    np.savez(folder / "wide_0100x0120_sd.npz", **both, **facts, alpha_mask=mask)
    newer = {"latents_8x8": latents(3, 8, 8), "latents_flipped_8x8": latents(4, 8, 8)}
    newer |= {"original_size_8x8": np.array([64, 64]), "crop_ltrb_8x8": np.array([0, 0, 64, 64])}
    np.savez(folder / "gone_0064x0064_sd.npz", **newer, alpha_mask_8x8=np.ones((64, 64)))
    (folder / "gone.caption").write_text("a gone one")
    return folder


def test_latents_of_sd_scripts_are_trained_on_as_they_are(cached: Path, make_config: Make) -> None:
    config = make_config(
        format="kohya_cache", held_out=0.0, augment={"flip": True}, masks={"kind": "alpha"}
    )
    report = prepare(config)
    assert (report.kept, report.rules) == (3, {})
    found = rows(config)
    assert found["wide_0100x0120_sd.npz"]["captions"] == ["a wide one"]
    assert found["gone_0064x0064_sd.npz"]["captions"] == ["a gone one"]
    assert found["plain.png"]["captions"] == ["not cached"]
    seen = trained_on(config)
    wide = seen["wide_0100x0120_sd.npz"]
    assert {tuple(sizes) for _, sizes, _ in wide} == {(120, 100, 5, 3, 64, 48)}
    plain = [same(scaled, latents(1)) for scaled, *_ in wide]
    mirrored = [same(scaled, latents(2)) for scaled, *_ in wide]
    assert all(one != other for one, other in zip(plain, mirrored, strict=True))
    assert any(plain)
    assert any(mirrored)
    assert all((mask == np.repeat([255, 0], 4)[:, None]).all() for *_, mask in wide)
    assert any(same(scaled, latents(3, 8, 8)) for scaled, *_ in seen["gone_0064x0064_sd.npz"])
    assert prepare(config).made == {}


def test_a_changed_cache_is_another_row(cached: Path, make_config: Make) -> None:
    config = make_config(format="kohya_cache", held_out=0.0)
    assert prepare(config).made["latents"] == 3
    np.savez(cached / "gone_0064x0064_sd.npz", latents=latents(9, 8, 8))
    assert prepare(config).made == {"latents": 1}
    assert same(trained_on(config, 1)["gone_0064x0064_sd.npz"][0][0], latents(9, 8, 8))


def test_what_cannot_be_trained_on_is_named(tmp_path: Path, make_config: Make) -> None:
    folder = tmp_path / "images"
    draw(folder / "good.png", 1, caption="good")
    for name, arrays in {
        "other_0064x0064_sdxl": {"latents": latents(1)},
        "deep_0064x0064_sd": {"latents": latents(1, channels=16)},
        "empty_0064x0064_sd": {"x": latents(1)},
        "pickled_0064x0064_sd": {"latents": np.array([{}], object)},
        "nan_0064x0064_sd": {"latents": np.full((4, 8, 8), np.nan, np.float32)},
        "unflipped_0064x0064_sd": {"latents": latents(5)},
        "good_te_outputs": {"hidden_state1": latents(1)},
    }.items():
        np.savez(folder / f"{name}.npz", **arrays)
        (folder / f"{name.split('_')[0]}.txt").write_text("text")
    (folder / "torn_0064x0064_sd.npz").write_bytes(b"PK\3\4 torn")
    config = make_config(format="kohya_cache", held_out=0.0, augment={"flip": True})
    reasons = rejected(prepare(config))
    assert {path.split("_00")[0]: reason.split(":")[0] for path, reason in reasons.items()} == {
        "other": "its name says latents of sdxl, not of sd15",
        "deep": "16 channels of 8 pixels a cell are no latents of a sd15 model",
        "empty": "no latents are in it, but x",
        "pickled": "no npz or npy that can be read",
        "nan": "the cache has no latents of its mirror image, which data.augment.flip asks for",
        "unflipped": "the cache has no latents of its mirror image, which data.augment.flip asks "
        "for",
        "good_te_outputs.npz": "neither an image nor a caption",
        "torn": "no npz or npy that can be read",
    }
    reasons = rejected(prepare(make_config(format="kohya_cache", held_out=0.0)))
    assert "NaN" in reasons["nan_0064x0064_sd.npz"]
    assert "unflipped_0064x0064_sd.npz" not in reasons
    config = make_config(format="kohya_cache", held_out=0.0, cache=False)
    reasons = rejected(prepare(config))
    assert "no image to encode in training" in reasons["unflipped_0064x0064_sd.npz"]


def test_a_captioner_cannot_see_cached_latents(tmp_path: Path, make_config: Make) -> None:
    draw(tmp_path / "images/good.png", 1)
    np.savez(tmp_path / "images/cached_0064x0064_sd.npz", latents=latents(1))
    captions = {"captioner": "tests.data.size_captioner"}
    config = make_config(format="kohya_cache", held_out=0.0, captions=captions)
    [reason] = rejected(prepare(config)).values()
    assert "no image to look at" in reason


def test_what_sd_trainer_prepared(tmp_path: Path, make_config: Make) -> None:
    root = tmp_path / "images"
    for name in ("latents", "captions", "mask", "control"):
        (root / name).mkdir(parents=True)
    draw(root / "control/a.png", 1)
    (root / "buckets.json").write_text('{"(48, 64)": ["a"], "(64, 64)": ["b"]}')
    np.save(root / "latents/a.npy", latents(1).astype(np.float16))
    np.save(root / "latents/b.npy", latents(2, 8, 8))
    (root / "captions/a.caption").write_text("first")
    (root / "captions/b.caption").write_text("second")
    half = np.full((8, 6), 0.05)
    half[:, :3] = 1
    np.savez(root / "mask/a.npz", half)
    np.savez(root / "mask/b.npz", np.ones((8, 8)))
    config = make_config(format="auto", held_out=0.0, masks={"kind": "folder"})
    report = prepare(config)
    assert rejected(report) == {"control/a.png": "an image where this format reads none"}
    assert {row["captions"][0] for row in rows(config).values()} == {"first", "second"}
    [(scaled, sizes, mask)] = trained_on(config, 1)["latents/a.npy"]
    assert same(scaled, latents(1))
    assert sizes == [64, 48, 0, 0, 64, 48]
    assert (mask == [255] * 3 + [13] * 3).all()
