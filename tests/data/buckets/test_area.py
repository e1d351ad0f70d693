"""Rule `area`: today's sizes and choices, promises of every bucket, side limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.config.data import BucketConfig
from raytrain.data.buckets import Fit, all_sizes, fits

ELEVEN = (
    (512, 1024), (576, 1024), (576, 960), (640, 896), (704, 832), (768, 768),
    (832, 704), (896, 640), (960, 576), (1024, 576), (1024, 512),
)  # fmt: skip


def test_768_gives_the_known_eleven_buckets() -> None:
    assert all_sizes(BucketConfig(resolution=768)) == ELEVEN
    assert all_sizes(BucketConfig(resolution=768, min_side=512, max_side=1024)) == ELEVEN


def test_1024_gives_the_known_thirteen_buckets() -> None:
    tall = {(704, 1408), (768, 1344), (768, 1280), (832, 1216), (896, 1152), (960, 1088)}
    assert set(all_sizes(BucketConfig(resolution=1024))) == tall | {(h, w) for w, h in tall} | {
        (1024, 1024)
    }


def test_a_ratio_of_one_gives_the_square_alone() -> None:
    assert all_sizes(BucketConfig(resolution=768, max_ratio=1.0)) == ((768, 768),)


def test_a_lower_longest_side_keeps_extreme_shapes_with_fewer_pixels() -> None:
    # By hand: 768^2 / 640 = 921 -> 896; 576 and 512 would reach 1024 and 1152, cut to 896; 448 * 2
    # = 896 ends it.
    tall = {(448, 896), (512, 896), (576, 896), (640, 896), (704, 832)}
    expected = tall | {(h, w) for w, h in tall} | {(768, 768)}
    assert set(all_sizes(BucketConfig(resolution=768, max_side=896))) == expected


def test_the_shortest_side_is_a_limit() -> None:
    assert all_sizes(BucketConfig(resolution=768, min_side=640)) == (
        (640, 896), (704, 832), (768, 768), (832, 704), (896, 640),
    )  # fmt: skip


@given(
    st.integers(2, 32),
    st.sampled_from([8, 16, 64]),
    st.floats(1.0, 4.0),
    st.integers(1, 16),
    st.integers(1, 40),
)
def test_every_bucket_keeps_the_promises(
    cells: int, step: int, max_ratio: float, less: int, more: int
) -> None:
    resolution = cells * step
    least, most = max(16, resolution - less * step), resolution + more * step
    config = BucketConfig(
        resolution=resolution, step=step, max_ratio=max_ratio, min_side=least, max_side=most
    )
    sizes = all_sizes(config)
    assert (resolution, resolution) in sizes
    for width, height in sizes:
        assert width % step == height % step == 0
        assert 0 < width * height <= resolution**2
        assert max(width, height) <= max_ratio * min(width, height)
        assert least <= min(width, height) <= max(width, height) <= most
        assert (height, width) in sizes


@pytest.mark.parametrize(
    ("size", "fit"),
    [
        ((500, 500), Fit((768, 768), (768, 768))),
        ((3000, 2000), Fit((896, 640), (960, 640))),
        ((2000, 3000), Fit((640, 896), (640, 960))),
        ((9000, 10), Fit((1024, 512), (460800, 512))),
        ((1365, 1000), Fit((896, 640), (896, 656))),
    ],
)
def test_the_nearest_bucket_has_the_closest_ratio(size: tuple[int, int], fit: Fit) -> None:
    assert fits(*size, BucketConfig(resolution=768)) == (fit,)
    ratio = math.log(size[0] / size[1])
    best = min(abs(math.log(w / h) - ratio) for w, h in ELEVEN)
    assert abs(math.log(fit.bucket[0] / fit.bucket[1]) - ratio) == best


def test_of_equally_close_buckets_the_largest_wins() -> None:
    found = fits(10, 10, BucketConfig(sizes=((64, 64), (128, 128), (64, 128))))
    assert found == (Fit((128, 128), (128, 128)),)


def test_a_tie_between_portrait_and_landscape_is_one() -> None:
    assert fits(100, 100, BucketConfig(sizes=((128, 64), (64, 128))))[0].bucket == (64, 128)


def test_listed_sizes_replace_the_rule() -> None:
    assert all_sizes(BucketConfig(sizes=((640, 512), (512, 512)))) == ((512, 512), (640, 512))


@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.sampled_from([512, 768, 1024]),
    st.floats(1.0, 4.0),
)
def test_the_choice_is_the_plain_minimum_over_all_sizes(
    width: int, height: int, resolution: int, ratio: float
) -> None:
    config = BucketConfig(resolution=resolution, max_ratio=ratio)

    def apart(size: tuple[int, int]) -> tuple[float, int, tuple[int, int]]:
        return (
            round(abs(math.log(size[0] / size[1]) - math.log(width / height)), 9),
            -size[0] * size[1],
            size,
        )

    assert fits(width, height, config)[0].bucket == min(all_sizes(config), key=apart)
