"""Masks and control images: the same view as their image, whatever is cut or mirrored;
the masked loss by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from raytrain.config import Config
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.prepare import prepare
from raytrain.model import build
from tests.data.conftest import draw
from tests.data.contents import contents
from tests.data.direct import Direct, same, shown, stored

pytestmark = pytest.mark.usefixtures("here")
Make = Callable[..., Config]
SQUARE = {"sizes": [[64, 64]], "step": 16}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A wide image with a mask that is white in its upper left,
    and a control image with a red corner there."""
    folder = tmp_path / "images"
    draw(folder / "a.png", 1, (128, 64), "a")
    draw(folder / "b.png", 2, (128, 64), "b")
    for kind in ("masks", "controls"):
        (tmp_path / kind).mkdir()
    for name, box in (("a", (0, 0, 48, 16)), ("b", (96, 8, 120, 56))):
        mask = Image.new("L", (128, 64), 0)
        mask.paste(255, box)
        mask.save(tmp_path / f"masks/{name}.png")
        control = Image.new("RGB", (128, 64), "blue")
        control.paste("red", box)
        control.save(tmp_path / f"controls/{name}.png")
    return folder


@pytest.fixture
def config(source: Path, make_config: Make, tmp_path: Path) -> Callable[..., Config]:
    """Return a maker of configs with both kinds of layers in folders."""
    subset = {
        "source": str(source),
        "masks": str(tmp_path / "masks"),
        "controls": str(tmp_path / "controls"),
    }
    layers = {"masks": {"kind": "folder"}, "controls": {"kind": "folder"}}
    return lambda **data: make_config(
        **{"source": "", "subsets": [subset], "held_out": 0.0, "buckets": SQUARE, **layers, **data}
    )


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return {path: row for (path, _), row in contents(config).items() if path}


def cells(mask: Image.Image, left: int) -> np.ndarray:
    """Return the means of 8x8 pixels of a 64x64 cut."""
    part = np.asarray(mask)[:, left : left + 64].astype(np.float64)
    return part.reshape(8, 8, 8, 8).mean(axis=(1, 3))


def test_layers_follow_every_cut_and_mirror(config: Callable[..., Config], tmp_path: Path) -> None:
    settings = config(augment={"flip": True, "crops": 3}, buckets={**SQUARE, "crop": "random"})
    report = prepare(settings)
    assert report.made["mask"] == report.made["control"] == report.made["latents"] == 12
    for path, row in rows(settings).items():
        mask, control = (
            Image.open(tmp_path / f"masks/{path}"),
            Image.open(tmp_path / f"controls/{path}"),
        )
        assert len(row["latents"]) == len(row["mask"]) == len(row["control"]) == 6
        for number, (latents, gray, colors) in enumerate(
            zip(row["latents"], row["mask"], row["control"], strict=True)
        ):
            assert latents[1:] == gray[1:] == colors[1:]
            left = 128 - 64 - latents[2] if number % 2 else latents[2]
            expected = cells(mask, left)[:, :: -1 if number % 2 else 1]
            np.testing.assert_allclose(
                stored(gray, "mask").reshape(8, 8), expected, atol=0.5 + 1e-6
            )
            seen = np.asarray(control)[:, left : left + 64][:, :: -1 if number % 2 else 1]
            assert np.array_equal(
                stored(colors, "control").reshape(3, 64, 64), seen.transpose(2, 0, 1)
            )


def test_the_cut_is_centered_on_what_the_mask_shows(
    config: Callable[..., Config], source: Path
) -> None:
    settings = config(buckets={**SQUARE, "crop": "salience"})
    report = prepare(settings)
    assert report.annotated == {"folder": 2}
    found, direct = rows(settings), Direct(settings)
    # The middle of a's patch is at 24, of b's at 108: cut around them as far as the image reaches.
    for name, left in (("a.png", 0), ("b.png", 64)):
        [latents] = found[name]["latents"]
        assert latents[1:] == (0, left)
        assert same(latents, direct.latents(shown(source / name, (128, 64), 0, left, (64, 64))))
    mask = Image.new("L", (128, 64), 0)
    mask.paste(255, (60, 0, 80, 64))
    mask.save(settings.data.subsets[0].masks + "/a.png")
    assert prepare(settings).made == {"latents": 1, "mask": 1, "control": 1}
    assert rows(settings)["a.png"]["latents"][0][1:] == (0, 38), "70 - 32"


def test_transparency_is_a_mask(make_config: Make, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    draw(folder / "a.png", 1, (64, 64))
    draw(folder / "b.png", 2, (64, 64))
    with Image.open(folder / "a.png") as image:
        layer = image.convert("RGBA")
    alpha = Image.linear_gradient("L").resize((64, 64))
    layer.putalpha(alpha)
    layer.save(folder / "a.png")
    settings = make_config(held_out=0.0, masks={"kind": "alpha"}, background="#204060")
    prepare(settings)
    found = rows(settings)
    np.testing.assert_allclose(
        stored(found["a.png"]["mask"][0], "mask").reshape(8, 8), cells(alpha, 0), atol=0.5 + 1e-6
    )
    assert set(stored(found["b.png"]["mask"][0], "mask")) == {255}
    laid = np.asarray(
        Image.alpha_composite(Image.new("RGBA", (64, 64), "#204060"), layer).convert("RGB")
    )
    assert same(found["a.png"]["latents"][0], Direct(settings).latents(laid))


def test_edges_are_those_of_the_whole_image(make_config: Make, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in (1, 2):
        noise = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((256, 128), Image.Resampling.NEAREST).save(
            folder / f"{seed}.png"
        )
    settings = make_config(
        held_out=0.0, buckets=SQUARE, controls={"kind": "canny"}, augment={"colors": 1}
    )
    assert prepare(settings).made == {"latents": 4, "control": 2, "text": 1}, (
        "edges keep their color"
    )
    for path, row in rows(settings).items():
        with Image.open(folder / path) as image:
            edges = Image.fromarray(cv2.Canny(np.asarray(image), 100, 200)).convert("RGB")
        cut = np.asarray(edges.resize((128, 64), Image.Resampling.LANCZOS).crop((32, 0, 96, 64)))
        for version in row["control"]:
            assert np.array_equal(
                stored(version, "control").reshape(3, 64, 64), cut.transpose(2, 0, 1)
            )
    read = Dataset(settings.dataset).rows("64x64", np.arange(2), columns=("latents", "control"))
    control = read.columns["control"]
    assert (control.shape, control.dtype) == ((2, 3, 64, 64), np.uint8)


def test_the_masked_loss_by_hand(config: Callable[..., Config]) -> None:
    from diffusers import DDPMScheduler, UNet2DConditionModel

    settings = config()
    prepare(settings)
    dataset = Dataset(settings.dataset)
    batch = (
        Loader(dataset, BatchSampler(dataset.counts(), batch=2, seed=0, epochs=1)).step(0).batch
    )
    assert 0 < int((batch.columns["mask"] == 255).sum()) < batch.columns["mask"].numel()
    model = build(settings, torch.device("cpu"))
    draws = model.draw(batch)
    steps = (draws["timestep"] * 1000).long()
    unet = UNet2DConditionModel.from_pretrained(settings.model.path, subfolder="unet").eval()
    with torch.no_grad():
        errors = model(batch, draws)
        mean, variance = batch.columns["latents"].float().chunk(2, dim=1)
        latents = (mean + (0.5 * variance).exp() * draws["latent"]) * 0.18215
        noisy = DDPMScheduler.from_pretrained(
            settings.model.path, subfolder="scheduler"
        ).add_noise(latents, draws["noise"], steps)
        predicted = unet(noisy, steps, batch.columns["text"].float()).sample
    for number in range(2):
        mask = batch.columns["mask"][number].double() / 255
        squares = (predicted[number] - draws["noise"][number]).double().square().mean(0)
        shown = float(mask.sum())
        by_hand = (
            float((squares * mask).sum()) / shown if shown else 0.0
        )  # of b's patch the center shows nothing
        assert float(errors[number]) == pytest.approx(by_hand, rel=1e-4)
        assert float(errors[number]) != pytest.approx(float(squares.mean()), rel=1e-3)
