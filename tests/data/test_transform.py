"""Transforms: the plain cut to the pixel, and what every version guarantees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from raytrain.config.data import AugmentConfig, BucketConfig
from raytrain.data.buckets import Fit, fits
from raytrain.data.image.render import pixels
from raytrain.data.image.transform import Color, Inset, Placement, Transform, mirrored, transforms

ALL = AugmentConfig(flip=True, crops=3, colors=2, zooms=2, outpaints=2)
PLAIN = AugmentConfig()
FIT = Fit((256, 256), (341, 256))
NEUTRAL = Color(0, 1, 1, 1, False)


def photo(width: int, height: int) -> Image.Image:
    """Smooth, different everywhere, not symmetric."""
    y, x = np.mgrid[0:height, 0:width]
    layers = [x * 255 / width, y * 255 / height, 127 + 100 * np.sin(x / 17 + y / 29)]
    return Image.fromarray(np.stack(layers, axis=-1).astype(np.uint8))


def versions(
    crop: Any = "center", augment: AugmentConfig = ALL, **more: Any
) -> tuple[Transform, ...]:
    """Versions of a 400x300 image in a 256 bucket."""
    if crop != "random":
        augment = augment.model_copy(update={"crops": 1})
    return transforms(400, 300, FIT, BucketConfig(crop=crop), augment, "abc", 7, **more)


def close(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """The largest difference of two images."""
    return float(np.abs(one.astype(int) - other.astype(int)).max())


# the plain cut -----------------------------------------------------------------------------------


def test_a_plain_cut_is_one_lanczos_resize_and_one_crop() -> None:
    image = photo(400, 300)
    (plain,) = versions(augment=PLAIN)
    assert plain == Transform(Placement(341, 256, 0, 42))
    expected = np.asarray(
        image.resize((341, 256), Image.Resampling.LANCZOS).crop((42, 0, 298, 256))
    )
    assert (pixels(image, plain, (256, 256)) == expected).all()


def test_a_image_of_the_buckets_size_is_not_touched() -> None:
    image = photo(256, 256)
    (plain,) = transforms(256, 256, Fit((256, 256), (256, 256)), BucketConfig(), PLAIN, "", 0)
    assert (pixels(image, plain, (256, 256)) == np.asarray(image)).all()


def test_random_cuts_are_the_known_function_of_identity_and_seed() -> None:
    # The first 64 bits of sha256("abc/7") times 1 row, the second times 86 columns; the second cut
    # hashes "abc/7/1".
    assert versions("random", PLAIN) == (Transform(Placement(341, 256, 0, 82)),)
    assert versions("random", AugmentConfig(crops=2))[0] == versions("random", PLAIN)[0]


# promises of every version -----------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from(["center", "random", "salience"]),
    st.booleans(),
    st.sampled_from(["area", "kohya"]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, 2**31),
)
def test_every_window_lies_inside_its_image(
    width: int,
    height: int,
    crop: Any,
    upscale: bool,
    rule: str,
    center: tuple[float, float],
    seed: int,
) -> None:
    buckets = BucketConfig(rule=rule, crop=crop, upscale=upscale)
    augment = ALL.model_copy(update={"crops": 3 if crop == "random" else 1})
    for fit in fits(width, height, buckets):
        found = transforms(width, height, fit, buckets, augment, "id", seed, center)
        assert len(set(found)) == len(found)
        for version in found:
            place, inset = version.placement, version.inset
            shown = (inset.width, inset.height) if inset else fit.bucket
            assert 0 <= place.left <= place.resized_width - shown[0]
            assert 0 <= place.top <= place.resized_height - shown[1]
            if inset:
                assert 0 <= inset.left <= fit.bucket[0] - inset.width
                assert 0 <= inset.top <= fit.bucket[1] - inset.height
            if not upscale:
                assert place.resized_width <= width
                assert place.resized_height <= height
            assert mirrored(mirrored(version, fit.bucket), fit.bucket) == version
            assert mirrored(version, fit.bucket) in found
            assert Transform.from_json(version.to_json()) == version


def test_the_number_of_versions() -> None:
    found = versions("random")
    assert len(found) == 2 * (3 + 2 + 2 + 2)
    kinds = [(bool(v.color), bool(v.inset), v.placement.resized_width > 341) for v in found[::2]]
    plain, color, zoom, outpaint = (
        (False, False, False),
        (True, False, False),
        (False, False, True),
        (False, True, False),
    )
    assert kinds == [plain] * 3 + [color] * 2 + [zoom] * 2 + [outpaint] * 2
    assert [version.flip for version in found] == [False, True] * 9


def test_as_many_distinct_cuts_as_there_is_room() -> None:
    cuts = transforms(
        258,
        256,
        Fit((256, 256), (258, 256)),
        BucketConfig(crop="random"),
        AugmentConfig(crops=10),
        "x",
        0,
    )
    assert sorted(cut.placement.left for cut in cuts) == [0, 1, 2]


def test_identity_and_seed_each_change_the_draws() -> None:
    buckets = BucketConfig(crop="random")
    drawn = {
        transforms(4000, 300, FIT, buckets, ALL, name, seed)
        for name in ("a", "b")
        for seed in (0, 1)
    }
    assert len(drawn) == 4


def test_random_cuts_reach_every_place_alike() -> None:
    fit = Fit((256, 256), (259, 256))
    buckets = BucketConfig(crop="random")
    lefts = [
        transforms(259, 256, fit, buckets, PLAIN, str(n), 0)[0].placement.left for n in range(4000)
    ]
    assert np.bincount(lefts, minlength=4) == pytest.approx(1000, abs=120)


def test_another_process_draws_the_same() -> None:
    script = (
        "from tests.data.test_transform import versions\n"
        "print(*(v.to_json() for crop in ('center', 'random') for v in versions(crop)), sep='\\n')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "99", "OMP_NUM_THREADS": "1"}
    command, root = [sys.executable, "-c", script], Path(__file__).parents[2]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=True, env=environment
    )
    expected = [version.to_json() for crop in ("center", "random") for version in versions(crop)]
    assert done.stdout.split() == expected


# JSON --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Transform(Placement(341, 256, 0, 42)), "[341,256,0,42]"),
        (Transform(Placement(341, 256, 0, 42), flip=True), "[341,256,0,42,1]"),
        (
            Transform(Placement(341, 256, 0, 42), color=Color(0.01, 1.1, 0.9, 1.0, True)),
            "[341,256,0,42,0,[0.01,1.1,0.9,1.0,1]]",
        ),
        (
            Transform(Placement(341, 256, 0, 42), inset=Inset(8, 9, 1, 2)),
            "[341,256,0,42,0,[],[8,9,1,2]]",
        ),
    ],
)
def test_json_is_short_and_comes_back(one: Transform, text: str) -> None:
    assert one.to_json() == text
    assert Transform.from_json(text) == one


@pytest.mark.parametrize("text", ["", "{}", "[1,2,3]", "[1,2,3,4,0,[1]]"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        Transform.from_json(text)


# mirrors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_mirrored_version_shows_the_mirror_image(crop: str) -> None:
    image = photo(400, 300)
    for one in versions(crop)[::2]:
        seen = pixels(image, mirrored(one, (256, 256)), (256, 256))
        assert close(seen[:, ::-1], pixels(image, one, (256, 256))) <= (
            1 if one.inset or one.color else 0
        )


def test_crop_ids_are_those_of_the_mirrored_image() -> None:
    one = Transform(Placement(400, 256, 0, 100))
    assert (one.crop_top, one.crop_left) == (0, 100)
    assert (mirrored(one, (256, 256)).crop_top, mirrored(one, (256, 256)).crop_left) == (
        0,
        400 - 256 - 100,
    )
    smaller = Transform(Placement(300, 200, 0, 60), inset=Inset(200, 200, 20, 50))
    assert (smaller.crop_top, smaller.crop_left) == (0, 10)


# salience ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("center", "left"),
    [((0.5, 0.5), 42), ((0.0, 0.5), 0), ((1.0, 0.5), 85), ((0.4, 0.9), 8), (None, 42)],
)
def test_salience_cuts_around_the_center_as_far_as_the_image_reaches(
    center: tuple[float, float] | None, left: int
) -> None:
    # 0.4 * 341 - 128 = 8.4.
    (one,) = versions("salience", PLAIN, center=center)
    assert one.placement == (341, 256, 0, left)


def test_a_zoom_keeps_the_salient_point_in_view() -> None:
    for one in versions("salience", center=(0.1, 0.1)):
        if one.placement.resized_width > 341 and not one.flip:
            assert one.placement.left <= 0.15 * one.placement.resized_width


# augmentation ------------------------------------------------------------------------------------


def test_colors_are_drawn_from_their_ranges() -> None:
    found = versions(augment=AugmentConfig(colors=500, blur=0.3))[1:]
    ranges = {
        "hue": (1 / 256, 4 / 256),
        "brightness": (0.9, 1.1),
        "contrast": (0.9, 1.25),
        "saturation": (0.9, 1.2),
    }
    for name, (least, most) in ranges.items():
        drawn = np.array([getattr(one.color, name) for one in found])
        assert least - 1e-5 <= drawn.min() < least + 0.05 * (most - least)
        assert most + 1e-5 >= drawn.max() > most - 0.05 * (most - least)
        assert drawn.mean() == pytest.approx((least + most) / 2, abs=0.05 * (most - least))
    assert 0.23 < np.mean([one.color is not None and one.color.blur for one in found]) < 0.37


def test_a_zoom_shows_its_share_of_the_image() -> None:
    # In a bucket of the image's shape the side that binds shows its whole share, the other at most
    # its share.
    fit = Fit((256, 192), (256, 192))
    zooms = transforms(4000, 3000, fit, BucketConfig(), AugmentConfig(zooms=200), "x", 0)[1:]
    shares = np.array(
        [(256 / one.placement.resized_width, 192 / one.placement.resized_height) for one in zooms]
    )
    assert shares.min() > 0.845
    assert shares.max() < 0.955
    assert len({one.placement for one in zooms}) > 150


def test_outpainting_lays_the_image_on_its_own_extension() -> None:
    image = photo(400, 300)
    outpaints = versions(augment=AugmentConfig(outpaints=20))[1:]
    for one in outpaints:
        assert one.inset is not None
        assert 0.59 * 256 < one.inset.width == one.inset.height < 0.91 * 256
        seen = pixels(image, one, (256, 256))
        size = (one.inset.width, one.inset.height)
        inner = pixels(image, one._replace(inset=None), size)
        top, left = one.inset.top, one.inset.left
        assert (seen[top : top + size[1], left : left + size[0]] == inner).all()
        if top > 16:  # the reflection continues the image: no border, no jump
            above, below = (
                seen[top - 16 : top, left : left + size[0]],
                seen[top : top + 16, left : left + size[0]],
            )
            assert np.abs(above.mean(axis=(0, 1)) - below.mean(axis=(0, 1))).max() < 10
    assert len({one.inset for one in outpaints}) == 20
