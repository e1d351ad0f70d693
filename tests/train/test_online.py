"""Training without a cache is training over the cache, bit for bit, and resumes as exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain import checkpoint, held_out
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.toy.draw import draw_folder
from raytrain.train import worker
from raytrain.train.run import load_model
from tests.conftest import losses, workers_here
from tests.data.tiny_models import swin2sr
from tests.train.test_resume import check_resume

CPU = torch.device("cpu")
Make = Callable[..., Config]


@pytest.fixture
def prepared(run_config: Make, tmp_path: Path) -> Callable[..., Config]:
    """Return a maker of a run over a few images of its own, prepared with `cache` or without."""
    draw_folder(tmp_path / "images", 8, style="neon", seed=5)
    model = swin2sr(tmp_path / "swin2sr")

    def make(cache: bool, family: str = "sd15", name: str = "", **more: Any) -> Config:
        base = run_config(family=family, name=name or f"run-{cache}")
        tree = base.values()
        tree["data"] |= {
            "source": str(tmp_path / "images"),
            "dataset": str(tmp_path / f"dataset-{family}-{cache}"),
            "cache": cache,
            "augment": {"flip": True, "colors": 1},
            "masks": {"kind": "alpha"},
            "super_resolution": {"path": model, "below": 0.9},
            "encode": {"batch": 1},  # a batch's other rows may change a row's last bit
        }
        tree["objective"]["caption_dropout"] = 0.3
        for table, values in more.items():
            tree[table] |= values
        config = parse(tree)
        with workers_here():
            prepare(config)
        return config

    return make


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_run_without_a_cache_is_the_run_with_one(
    prepared: Callable[..., Config], family: str
) -> None:
    short = {"train": {"steps": 3}}
    cached, online = prepared(True, family, **short), prepared(False, family, **short)
    stored = Dataset.of(online).manifest.columns
    assert sorted(stored) == ["mask", "tokens", "transform"]
    worker.train(cached)
    worker.train(online)
    assert losses(online) == losses(cached)
    first, second = (checkpoint.load(checkpoint.find(c.output) or "") for c in (cached, online))
    for name, value in first.weights.items():
        assert torch.equal(value, second.weights[name]), name
    model = load_model(cached, CPU)
    one, other = (
        held_out.losses(model, Dataset.of(config), config.evaluate) for config in (cached, online)
    )
    assert one == other
    assert len(one) > 0


def test_it_resumes_bit_for_bit(
    prepared: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_resume(prepared(False, name="whole"), prepared(False, name="broken"), monkeypatch)


def test_another_vae_costs_nothing_and_counts_at_once(
    prepared: Callable[..., Config], tmp_path: Path
) -> None:
    from raytrain.families import sd15

    online = prepared(False, train={"steps": 1})
    sd15.tiny(str(tmp_path / "other"), seed=7)
    tree = online.values()
    tree["model"]["vae"], tree["output"] = str(tmp_path / "other"), str(tmp_path / "again")
    changed = parse(tree)
    with workers_here():
        assert prepare(changed).made == {}
    worker.train(online)
    worker.train(changed)
    assert losses(changed) != losses(online)


def test_an_image_that_changed_ends_the_run_in_words(
    prepared: Callable[..., Config], tmp_path: Path
) -> None:
    online = prepared(False)
    for image in (tmp_path / "images").glob("*.png"):
        image.write_bytes(image.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"cannot be read as it was prepared: changed"):
        worker.train(online)


def test_a_broken_image_is_left_out_when_it_is_prepared(
    prepared: Callable[..., Config], tmp_path: Path
) -> None:
    first = sorted((tmp_path / "images").glob("*.png"))[0]
    first.write_bytes(first.read_bytes()[:-40])
    online = prepared(False)
    with workers_here():
        assert prepare(online).rules == {"broken": 1}


def test_a_dataset_of_the_other_kind_is_refused(prepared: Callable[..., Config]) -> None:
    cached = prepared(True)
    data = cached.data.model_copy(update={"cache": False})
    with pytest.raises(UserError, match="has only latents, mask, text"):
        worker.train(cached.model_copy(update={"data": data}))
