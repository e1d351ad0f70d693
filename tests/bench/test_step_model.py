"""Predictions of many workers: what must hold whatever the figures are,
and a few values known from elsewhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.bench.step_model import ENGINES, Network, Workload, expected_maximum, predict, traffic

SEVERAL = [engine for engine in ENGINES if engine != "plain"]
seconds = st.floats(1e-3, 100)
workloads = st.builds(
    Workload,
    images=st.integers(1, 64),
    seconds=seconds,
    deviation=st.floats(0, 10),
    gradient_bytes=st.integers(4, 10**10),
    weight_bytes=st.integers(4, 10**11),
    processor=st.floats(0, 100),
    accumulation=st.integers(1, 8),
)
networks = st.builds(
    Network,
    bandwidth=st.floats(1e6, 1e12),
    latency=st.floats(0, 1e-2),
    overlap=st.floats(0, 2 / 3),
    cores=st.one_of(st.just(math.inf), st.floats(1, 64)),
)
WORK = Workload(images=4, seconds=0.5, deviation=0.0, gradient_bytes=10**9, weight_bytes=10**9)


@given(workloads, networks, st.sampled_from(SEVERAL), st.integers(1, 1024), st.integers(1, 1024))
def test_efficiency_never_passes_one_and_falls_with_workers(
    work: Workload, network: Network, engine: str, one: int, other: int
) -> None:
    few, many = (predict(work, network, engine, workers) for workers in sorted((one, other)))
    assert 0 < many.efficiency <= few.efficiency * (1 + 1e-9) <= 1 + 2e-9
    assert few.sent <= many.sent
    assert many.images_per_second == pytest.approx(many.workers * work.images / many.seconds)


@given(workloads, networks, st.sampled_from(ENGINES))
def test_one_worker_does_what_was_measured(work: Workload, network: Network, engine: str) -> None:
    assume(work.processor <= network.cores * work.seconds)
    alone = predict(work, network, engine, 1)
    assert alone.seconds == work.seconds
    assert alone.efficiency == 1
    assert alone.sent == 0


@given(workloads, st.integers(2, 1024))
def test_every_engine_sends_what_its_paper_says(work: Workload, workers: int) -> None:
    sent = {engine: traffic(work, engine, workers)[0] for engine in SEVERAL}
    ring = 2 * (workers - 1) / workers * work.gradient_bytes
    assert sent["ddp"] == sent["zero1"] == pytest.approx(ring)
    assert sent["zero2"] == pytest.approx(ring * (work.accumulation + 1) / 2)
    full = Workload(1, 1.0, 0.0, work.gradient_bytes, weight_bytes=work.gradient_bytes)
    assert traffic(full, "zero3", workers)[0] == pytest.approx(1.5 * ring)


@pytest.mark.parametrize(
    ("count", "known"), [(1, 0.0), (2, math.pi**-0.5), (10, 1.53875), (1000, 3.24144)]
)
def test_expected_maximum_of_normal_draws(count: int, known: float) -> None:
    assert expected_maximum(count) == pytest.approx(known, abs=1e-4)  # Harter 1961, table 1


def test_communication_hides_behind_computing_as_far_as_it_may() -> None:
    open_network = Network(bandwidth=1e9, latency=0.0)
    assert predict(WORK, open_network, "ddp", 2).communication == pytest.approx(1.0)
    assert predict(WORK, Network(1e9, 0.0, overlap=0.5), "ddp", 2).communication == pytest.approx(
        0.75
    )
    assert predict(WORK, Network(1e12, 0.0, overlap=0.5), "ddp", 2).seconds == 0.5


def test_workers_that_share_cores_slow_each_other() -> None:
    work = Workload(
        images=4, seconds=0.5, deviation=0.0, gradient_bytes=4, weight_bytes=4, processor=0.5
    )
    shared = Network(bandwidth=1e12, latency=0.0, cores=2)
    times = [predict(work, shared, "ddp", workers).compute for workers in (1, 2, 4)]
    assert times == [0.5, 0.5, 1.0]
