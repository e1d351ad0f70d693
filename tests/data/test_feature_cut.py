"""How images are resized, and what captioners and SDXL are told of the cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from raytrain import methods, rng
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.methods import _denoise
from raytrain.objective import Objective
from tests import batches
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def test_the_filter_is_the_one_asked_for(tmp_path: Path, make_config: Make) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    (tmp_path / "images").mkdir()
    Image.fromarray(noise).save(tmp_path / "images/large.png")
    Image.fromarray(noise[:40, :40]).save(tmp_path / "images/small.png")

    def expected(name: str, resample: str) -> Any:
        with Image.open(tmp_path / f"images/{name}.png") as image:
            if resample == "bicubic":
                return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
            if resample == "area" and name == "large":
                return cv2.resize(np.asarray(image), (64, 64), interpolation=cv2.INTER_AREA)
            return np.asarray(image.resize((64, 64), Image.Resampling.LANCZOS))

    for resample in ("lanczos", "bicubic", "area"):
        config = make_config(
            held_out=0.0, buckets={"resolution": 64, "step": 16, "resample": resample}
        )
        assert prepare(config).made["latents"] == 2
        found, direct = rows(config), Direct(config)
        for name in ("large", "small"):
            [version] = found[f"{name}.png"]["latents"]
            assert same(version, direct.latents(expected(name, resample)))
            other = "lanczos" if resample == "bicubic" else "bicubic"
            assert not same(version, direct.latents(expected(name, other)))


def test_images_above_a_side_are_as_if_their_files_were_smaller(
    tmp_path: Path, make_config: Make
) -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 201, 3), np.uint8))
    (tmp_path / "images").mkdir()
    large.save(tmp_path / "images/a.png")
    draw(tmp_path / "images/b.png", 1, (64, 64), "small")
    settings = {
        "held_out": 0.0,
        "captions": {"captioner": "tests.data.size_captioner"},
        "buckets": {"sizes": [[64, 64]], "step": 16},
    }
    assert prepare(make_config(**settings)).annotated["tests.data.size_captioner"] == 1
    config = make_config(max_side=100, **settings)
    assert prepare(config).annotated["tests.data.size_captioner"] == 1
    row = rows(config)["a.png"]
    assert (row["original_width"], row["original_height"]) == (100, 50)
    assert row["captions"][0].startswith("100 50 ")
    shrunk = large.resize((100, 50), Image.Resampling.LANCZOS)
    cut = shrunk.resize((128, 64), Image.Resampling.LANCZOS).crop((32, 0, 96, 64))
    assert same(row["latents"][0], Direct(config).latents(np.asarray(cut)))
    assert rows(config)["b.png"]["original_width"] == 64


def test_captioners_see_the_cut_where_they_are_asked_to(tmp_path: Path, make_config: Make) -> None:
    image = Image.new("RGB", (192, 64), "red")
    image.paste("blue", (0, 0, 64, 64))
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images/wide.png")
    draw(tmp_path / "images/other.png", 1, (64, 64), "has one")
    draw(tmp_path / "masks/other.png", 1, (64, 64))
    mask = Image.new("L", (192, 64))
    mask.paste(255, (0, 0, 64, 64))
    mask.save(tmp_path / "masks/wide.png")
    source = {"source": str(tmp_path / "images"), "masks": str(tmp_path / "masks")}

    def caption(cropped: bool, crop: str, **more: Any) -> tuple[str, int]:
        config = make_config(
            source="",
            format="auto",
            subsets=[source | {"format": "folder"}],
            held_out=0.0,
            buckets={"sizes": [[64, 64]], "step": 16, "crop": crop},
            captions={"captioner": "tests.data.size_captioner", "cropped": cropped},
            masks={"kind": "folder", "train": False},
            **more,
        )
        made = prepare(config).annotated["tests.data.size_captioner"]
        return rows(config)["wide.png"]["captions"][0], made

    assert caption(False, "center") == ("192 64 (255, 0, 0)", 1)
    assert caption(False, "salience") == ("192 64 (255, 0, 0)", 0)
    assert caption(True, "center") == ("64 64 (255, 0, 0)", 1)
    assert caption(True, "salience") == ("64 64 (0, 0, 255)", 1)
    assert caption(True, "salience", augment={"flip": True}) == ("64 64 (0, 0, 255)", 0)


def test_fixed_size_ids_are_what_the_denoiser_is_told(tmp_path: Path) -> None:
    from raytrain.families import sdxl

    sdxl.tiny(str(tmp_path / "model"))
    model = {"family": "sdxl", "path": str(tmp_path / "model")}
    ids = [1024, 1024, 0, 0, 512, 512]

    def losses(**more: Any) -> torch.Tensor:
        config = parse({"output": str(tmp_path / "run"), "model": {**model, **more}})
        batch, objective = batches.make(config), Objective.of(config, torch.device("cpu"))
        told = _denoise.condition(objective, {}, batch)["sizes"]
        assert told.tolist() == [ids if more else [64, 32, 0, 0, 64, 32]] * 4
        built = methods.load(config.method).build(
            lambda part: sdxl.load(config.model, part, torch.float32), sdxl, config.method, 0
        )
        draws = objective.draws(batch)
        drawn = rng.draw(draws, 0, batch)
        found: torch.Tensor = methods.load(config.method).losses(
            objective, built, batch, drawn, config.method
        )
        return found.detach()

    assert not torch.allclose(losses(), losses(size_ids=ids), rtol=1e-4)


def test_size_ids_of_a_family_without_them_are_refused(model: str, tmp_path: Path) -> None:
    config = parse(
        {"output": str(tmp_path), "model": {"path": model, "size_ids": [1, 1, 0, 0, 1, 1]}}
    )
    with pytest.raises(UserError, match="has no effect: a sd15 model"):
        Objective.of(config, torch.device("cpu"))
