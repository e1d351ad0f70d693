"""Rendering: masks that lie where the image does, color changes, and images too long to be resized
whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raytrain.config.data import BucketConfig
from raytrain.data.buckets import fits
from raytrain.data.image import render
from raytrain.data.image.render import center_of_mass, gray, pixels
from raytrain.data.image.transform import Inset, Placement, Transform, color_free, transforms
from tests.data.test_transform import NEUTRAL, PLAIN, close, photo, versions


def test_a_long_strip_is_cut_without_resizing_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image = photo(400, 300)
    whole = [pixels(image, version, (256, 256)) for version in versions("random")]
    monkeypatch.setattr(render, "LARGEST", 0)
    for version, expected in zip(versions("random"), whole, strict=True):
        assert close(pixels(image, version, (256, 256)), expected) <= 2
    monkeypatch.undo()
    (fit,) = fits(20_000, 10, BucketConfig())
    assert fit.resized[0] * fit.resized[1] > render.LARGEST
    (plain,) = transforms(20_000, 10, fit, BucketConfig(), PLAIN, "", 0)
    assert pixels(photo(20_000, 10), plain, fit.bucket).shape == (*fit.bucket[::-1], 3)


@pytest.mark.parametrize("crop", ["center", "random", "salience"])
@pytest.mark.parametrize("shrink", [1, 2])
def test_a_mask_lies_where_the_image_does(crop: str, shrink: int) -> None:
    image = Image.new("RGB", (400, 300))
    image.paste((255, 255, 255), (200, 130, 260, 170))
    layer = image.convert("L").resize((400 // shrink, 300 // shrink), Image.Resampling.BOX)
    found = versions(crop, center=(0.55, 0.5)) if crop == "salience" else versions(crop)
    for one in found:
        seen = pixels(image, one._replace(color=None), (256, 256))[..., 0].astype(float)
        if one.inset:
            inside = np.zeros_like(seen)
            area = (
                slice(one.inset.top, one.inset.top + one.inset.height),
                slice(one.inset.left, one.inset.left + one.inset.width),
            )
            inside[area] = seen[area]
            seen = inside
        expected = seen.reshape(32, 8, 32, 8).mean(axis=(1, 3))
        mask = gray(layer, one, (256, 256), (32, 32))
        assert mask.shape == (32, 32)
        assert mask.dtype == np.uint8
        assert np.abs(mask - expected).max() < 10  # Lanczos rings at the edges
        assert np.abs(mask - expected).mean() < 1


def test_a_mask_is_averaged_over_areas() -> None:
    layer = Image.new("L", (64, 64))
    layer.paste(255, (0, 0, 4, 64))
    mask = gray(layer, Transform(Placement(64, 64, 0, 0)), (64, 64), (8, 8))
    assert (mask[:, 0] == 128).all()
    assert not mask[:, 1:].any()
    mask = gray(layer, Transform(Placement(64, 64, 0, 0), flip=True), (64, 64), (8, 8))
    assert (mask[:, 7] == 128).all()
    assert not mask[:, :7].any()


def test_what_outpainting_adds_is_not_in_the_mask() -> None:
    one = Transform(Placement(48, 32, 0, 8), inset=Inset(32, 32, 16, 24))
    mask = gray(Image.new("L", (96, 64), 255), one, (64, 64), (8, 8))
    expected = np.zeros((8, 8))
    expected[2:6, 3:7] = 255
    assert (mask == expected).all()


def test_a_control_image_has_the_same_geometry_and_its_own_colors() -> None:
    image = photo(400, 300)
    larger = image.resize((800, 600), Image.Resampling.BICUBIC)
    for one in versions("random"):
        seen = pixels(larger, color_free(one), (256, 256))
        assert color_free(one)._replace(color=one.color) == one
        assert close(seen, pixels(image, one._replace(color=None), (256, 256))) <= 6


def test_center_of_mass_by_hand() -> None:
    mask = np.zeros((100, 200), dtype=np.uint8)
    assert center_of_mass(mask) == pytest.approx((0.5, 0.5))
    mask[20:40, 150:170] = 255
    # 400 pixels of 255 around (160, 30), 20000 of 0.01 around (100, 50).
    x, y = (160 * 102000 + 100 * 200) / 102200, (30 * 102000 + 50 * 200) / 102200
    assert center_of_mass(mask) == pytest.approx((x / 200, y / 100))


def test_each_color_change_does_what_it_says() -> None:
    image = Image.new("RGB", (64, 64), (200, 100, 50))
    image.paste((40, 80, 120), (0, 0, 32, 64))

    def seen(**changes: Any) -> NDArray[np.int64]:
        one = Transform(Placement(64, 64, 0, 0), color=NEUTRAL._replace(**changes))
        return pixels(image, one, (64, 64)).astype(np.int64)

    assert (seen() == np.asarray(image)).all()
    assert (seen(brightness=1.1)[0, 60] == (220, 110, 55)).all()
    gray_level = 299 * 200 + 587 * 100 + 114 * 50
    assert seen(saturation=0.0)[0, 60] == pytest.approx(np.full(3, gray_level / 1000), abs=1)
    spread = seen(contrast=1.25)[..., 2]
    assert spread[0, 0] - spread[0, 60] == pytest.approx(1.25 * (120 - 50), abs=1)
    turned = seen(hue=1 / 3)[0, 60]
    assert turned == pytest.approx(
        np.array([50, 200, 100]), abs=6
    )  # a third of the circle: red becomes green
    blurred = seen(blur=True)
    assert 40 < blurred[32, 31, 0] < blurred[32, 32, 0] < 200
    assert (blurred[:, :20] == (40, 80, 120)).all()
