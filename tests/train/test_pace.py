"""Images a second and the share of time that steps wait for data, by a clock that is set."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from raytrain.train.hooks import clock
from raytrain.train.hooks.clock import Clock
from raytrain.train.record import pace
from raytrain.train.record.pace import Pace


def test_what_hooks_take_counts_neither_as_training_nor_as_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    for module in (clock, pace):
        monkeypatch.setattr(module, "time", SimpleNamespace(
            monotonic=lambda: now[0], perf_counter=lambda: now[0]))  # fmt: skip

    def made() -> Iterator[int]:
        for images in (8, 4):
            now[0] += 1.0  # a batch takes a second
            yield images

    wall, counted = Clock(), Pace()
    assert counted.take(wall.minutes()) == {}, "there was no step"
    for images in counted.waiting(made()):
        now[0] += 4.0  # a step
        counted.images += images
    with wall.paused():
        now[0] += 90.0  # a hook before the one that asks
        assert counted.take(wall.minutes()) == pytest.approx(
            {"images_per_second": 12 / 10, "data_stall_ratio": 2 / 10}
        )
    now[0] += 6.0
    counted.images += 3
    assert counted.take(wall.minutes()) == pytest.approx(
        {"images_per_second": 3 / 6, "data_stall_ratio": 0.0}
    )
