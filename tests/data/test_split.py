"""The held-out pictures are chosen by content."""

from __future__ import annotations

import hashlib

from raytrain.data.split import split


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def test_the_share_is_about_the_fraction_and_exactly_by_hash() -> None:
    parts = split(hashes(2000), 0.1)
    assert 150 < list(parts.values()).count("held_out") < 250
    assert all((part == "held_out") == (int(identity[:8], 16) < 0.1 * 2**32) for identity, part in parts.items())


def test_adding_pictures_moves_no_other() -> None:
    few, many = split(hashes(500), 0.1), split(hashes(1000), 0.1)
    assert all(many[identity] == part for identity, part in few.items())


def test_small_sets_have_both_parts() -> None:
    for count in range(2, 8):
        for fraction in (1e-9, 0.1, 0.999):
            assert set(split(hashes(count), fraction).values()) == {"train", "held_out"}


def test_one_picture_or_no_fraction_means_training_only() -> None:
    assert set(split(hashes(1), 0.5).values()) == {"train"}
    assert set(split(hashes(50), 0.0).values()) == {"train"}
