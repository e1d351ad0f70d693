"""Bucket sizes by rule and by list, and the nearest bucket."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.config import BucketConfig
from raytrain.data import bucket


def test_the_rule_at_768_gives_the_known_eleven_buckets() -> None:
    assert bucket.sizes(BucketConfig(resolution=768)) == (
        (512, 1024), (576, 1024), (576, 960), (640, 896), (704, 832), (768, 768),
        (832, 704), (896, 640), (960, 576), (1024, 576), (1024, 512),
    )  # fmt: skip


def test_the_rule_at_1024_gives_the_known_thirteen_buckets() -> None:
    tall = {(704, 1408), (768, 1344), (768, 1280), (832, 1216), (896, 1152), (960, 1088)}
    assert set(bucket.sizes(BucketConfig(resolution=1024))) == tall | {(h, w) for w, h in tall} | {(1024, 1024)}


def test_a_ratio_of_one_gives_the_square_alone() -> None:
    assert bucket.sizes(BucketConfig(resolution=768, max_ratio=1.0)) == ((768, 768),)


def test_listed_sizes_replace_the_rule() -> None:
    assert bucket.sizes(BucketConfig(sizes=((640, 512), (512, 512)))) == ((512, 512), (640, 512))


@given(st.integers(2, 32), st.sampled_from([8, 16, 64]), st.floats(1.0, 4.0))
def test_every_bucket_keeps_the_promises(cells: int, step: int, max_ratio: float) -> None:
    resolution = cells * step
    sizes = bucket.rule(resolution, step, max_ratio)
    assert (resolution, resolution) in sizes
    for width, height in sizes:
        assert width % step == height % step == 0
        assert 0 < width * height <= resolution**2
        assert max(width, height) <= max_ratio * min(width, height)
        assert (height, width) in sizes


@pytest.mark.parametrize(
    ("size", "expected"),
    [((500, 500), (768, 768)), ((3000, 2000), (896, 640)), ((2000, 3000), (640, 896)), ((9000, 10), (1024, 512))],
)
def test_the_nearest_bucket_has_the_closest_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    sizes = bucket.sizes(BucketConfig(resolution=768))
    found = bucket.nearest(*size, sizes)
    assert found == expected
    ratio = math.log(size[0] / size[1])
    assert abs(math.log(found[0] / found[1]) - ratio) == min(abs(math.log(w / h) - ratio) for w, h in sizes)


def test_of_equally_close_buckets_the_largest_wins() -> None:
    assert bucket.nearest(10, 10, ((64, 64), (128, 128))) == (128, 128)
