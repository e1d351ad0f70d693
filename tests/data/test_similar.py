"""Perceptual hashes of real photographs, and near-duplicates against comparing each with each."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from skimage import data

from raytrain.data.pipeline import similar
from raytrain.data.pipeline.similar import Hashes, near_duplicates, perceptual_hash

PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "camera",
    "brick",
    "gravel",
    "coins",
    "moon",
    "page",
)


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(data, name)()).convert("RGB")


def recompressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=60)
    return Image.open(stream)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "recompressed": recompressed,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another format": lambda image: image.convert("RGBA"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
}


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize("change", CHANGES)
def test_the_hash_hardly_changes_with_what_people_do_not_see(change: str) -> None:
    for name in PHOTOGRAPHS:
        image = photograph(name)
        assert distance(perceptual_hash(image), perceptual_hash(CHANGES[change](image))) <= 6, name


def test_hashes_of_different_photographs_are_far_apart() -> None:
    hashes = [perceptual_hash(photograph(name)) for name in PHOTOGRAPHS]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 16


def test_the_hash_is_the_published_one() -> None:
    """The 64 bits, written out from the definition: an explicit cosine sum instead of a library's
    transform."""
    image = photograph("coffee")
    light = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), dtype=np.float64)
    waves = np.cos(np.pi * np.outer(np.arange(1, 9), 2 * np.arange(32) + 1) / 64)
    low = (waves @ light @ waves.T).ravel()
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(image) == int(bits, 2)


@pytest.mark.parametrize("color", ["black", "white", "#123456"])
def test_flat_images_hash_to_zero(color: str) -> None:
    assert perceptual_hash(Image.new("RGB", (200, 70), color)) == 0


def by_each_with_each(hashes: Hashes, most: int) -> list[int]:
    kept: list[int] = []
    found = []
    for position, value in enumerate(hashes.tolist()):
        near = [earlier for earlier in kept if (int(hashes[earlier]) ^ value).bit_count() <= most]
        found.append(near[0] if near else -1)
        if not near:
            kept.append(position)
    return found


@pytest.mark.parametrize("most", range(17))
def test_near_duplicates_are_those_of_comparing_each_with_each(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes of few bits, so that chains, clusters and copies abound; small leaves,
    so that halving and bands are used."""
    draws = np.random.default_rng(most)
    for _ in range(120):
        monkeypatch.setattr(similar, "LEAF", int(draws.integers(1, 40)))
        count, bits = int(draws.integers(0, 100)), int(draws.integers(1, 65))
        hashes = draws.integers(0, 2**64, count, dtype=np.uint64) & np.uint64(2**bits - 1)
        assert near_duplicates(hashes, most).tolist() == by_each_with_each(hashes, most)


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 7, 8, 12])
@pytest.mark.parametrize("bands", [3, 4, 5, 8, 17])
def test_every_way_of_cutting_into_bands_finds_all(
    bands: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar, "_CANDIDATE", 1e-9)  # never give up for too many candidates
    draws = np.random.default_rng(bands)
    kept = draws.integers(0, 2**64, 300, dtype=np.uint64)
    places = [
        draws.choice(64, draws.integers(0, most + 3), replace=False).tolist() for _ in range(400)
    ]
    flips = np.array([sum(1 << place for place in some) for some in places], dtype=np.uint64)
    queries = kept[draws.integers(0, 300, 400)] ^ flips
    found = similar._by_bands(kept, queries, most, bands)
    expected = similar._by_all_pairs(kept, queries, most)
    assert found is not None
    assert found.tolist() == expected.tolist()
    assert 0 < (expected >= 0).sum() < 400


def planted(count: int, most: int) -> tuple[Hashes, dict[int, int]]:
    """Random hashes, 5 % of them an earlier one with `most` bits changed: the hashes,
    and copy -> original."""
    draws = np.random.default_rng(0)
    hashes = draws.integers(0, 2**64, count, dtype=np.uint64)
    originals = {}
    for copy in draws.choice(np.arange(count // 2, count), count // 20, replace=False).tolist():
        original = int(draws.integers(0, count // 2))
        flips = sum(1 << int(place) for place in draws.choice(64, most, replace=False))
        hashes[copy] = hashes[original] ^ np.uint64(flips)
        originals[copy] = original
    return hashes, originals


def test_a_hundred_thousand_hashes_take_seconds_and_none_is_missed() -> None:
    hashes, originals = planted(100_000, 4)
    begin = time.process_time()
    found = near_duplicates(hashes, 4)
    assert time.process_time() - begin < 10
    assert {copy: int(found[copy]) for copy in originals} == originals
    assert (found >= 0).sum() == len(originals)


@pytest.mark.parametrize("most", [0, 4, 16])
def test_many_copies_and_dense_clusters_do_not_cost_the_square(most: int) -> None:
    draws = np.random.default_rng(5)
    copies = np.zeros(1_000_000, dtype=np.uint64)
    bits = np.uint64(1) << draws.integers(0, 64, (2, 100_000), dtype=np.uint64)
    cluster = np.concatenate([np.zeros(100_000, dtype=np.uint64), bits[0] | bits[1]])
    begin = time.process_time()
    assert near_duplicates(copies, most)[1:].tolist() == [0] * 999_999
    found = near_duplicates(cluster, most)
    assert time.process_time() - begin < 10
    if most >= 2:
        assert found[0] == -1
        assert not found[1:].any()
