"""Predict a step on more workers than can be had, from what one worker and a network were measured
to do.

A step ends when its slowest worker has computed and the gradients have gone round:

    seconds = compute * slowdown + deviation * slowdown * E[max of n normal draws]
              + communication not hidden

Bytes are those of ring collectives, 2 (n - 1) / n of the gradients for an all-reduce (Patarasuk &
Yuan 2009, "Bandwidth optimal all-reduce algorithms"), cut into reduce-scatter and all-gather by
ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054, section 7). Every worker computes the same number
of images whatever their number (weak scaling). `tests/bench/simulate.py` compares predictions with
local workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

from raytrain.errors import UserError, unknown

ENGINES = ("plain", "ddp", "zero1", "zero2", "zero3")
BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients that engines send in one collective (the default of PyTorch's DDP)."""


@dataclass(frozen=True)
class Workload:
    """A step of one worker alone, measured, and what it learns."""

    images: int
    """Images one worker computes in a step."""
    seconds: float
    """Mean of a step."""
    deviation: float
    """Standard deviation of a worker's steps: what the slowest of many is slower by."""
    gradient_bytes: int
    weight_bytes: int
    """All weights of the denoiser, frozen ones too: what ZeRO-3 gathers."""
    processor: float = 0.0
    """Processor seconds of a step over all of the worker's threads, where workers share cores."""
    accumulation: int = 1
    """Micro-batches of a step."""


@dataclass(frozen=True)
class Network:
    """What joins the workers."""

    bandwidth: float
    """Bytes a second that a worker sends while it receives as many."""
    latency: float
    """Seconds that a message takes besides its bytes."""
    overlap: float = 0.0
    """Share of a step's computing behind which communication can hide;
    DDP has at most the backward pass, 2/3."""
    cores: float = math.inf
    """Cores that all workers share; infinite where each has a device of its own."""


@dataclass(frozen=True)
class Prediction:
    """A step of `workers` workers."""

    workers: int
    engine: str
    compute: float
    """Seconds of an average worker."""
    straggling: float
    """Seconds that the slowest worker is expected to take longer."""
    communication: float
    """Seconds of communication that do not hide behind computing."""
    sent: float
    """Bytes that each worker sends."""
    images_per_second: float
    efficiency: float
    """Images a second against as many workers that never wait and never share;
    1 for one worker."""

    @property
    def seconds(self) -> float:
        """Seconds of a step."""
        return self.compute + self.straggling + self.communication


def predict(workload: Workload, network: Network, engine: str, workers: int) -> Prediction:
    """Predict a step; raises UserError for an engine that does not exist or does not run on so
    many workers."""
    sent, messages = traffic(workload, engine, workers)
    slowdown = max(1.0, workers * workload.processor / (network.cores * workload.seconds))
    compute = workload.seconds * slowdown
    straggling = workload.deviation * slowdown * expected_maximum(workers)
    sending = (sent / network.bandwidth + messages * network.latency) * max(
        1.0, workers / network.cores
    )
    communication = max(0.0, sending - network.overlap * compute)
    seconds = compute + straggling + communication
    return Prediction(
        workers=workers,
        engine=engine,
        compute=compute,
        straggling=straggling,
        communication=communication,
        sent=sent,
        images_per_second=workers * workload.images / seconds,
        efficiency=workload.seconds / seconds,
    )


def traffic(workload: Workload, engine: str, workers: int) -> tuple[float, int]:
    """Return the bytes each worker sends in a step, and how many messages it waits for one after
    the other.

    An all-reduce is a reduce-scatter and an all-gather, each of (n - 1) / n of the bytes in n - 1
    messages. ZeRO-2 and 3 reduce every micro-batch; ZeRO-3 gathers all weights before each forward
    and each backward pass besides. The loss's mean, which every step takes, is an all-reduce of no
    size.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if workers < 1 or (engine == "plain" and workers > 1):
        raise UserError(
            f"engine {engine!r} cannot run on {workers} workers, so there is nothing to predict. "
            "Give 1 worker or more, and ddp or a ZeRO engine for several."
        )
    gradients, weights, passes = (
        workload.gradient_bytes,
        workload.weight_bytes,
        workload.accumulation,
    )
    phases = {
        "zero2": [gradients] * passes + [gradients],
        "zero3": ([gradients] + 2 * [weights]) * passes,
    }.get(engine, [gradients, gradients])
    hops = sum(max(1, math.ceil(size / BUCKET_BYTES)) for size in phases) + 2
    return sum(phases) * (workers - 1) / workers, hops * (workers - 1)


@cache
def expected_maximum(count: int) -> float:
    """Return the expected largest of `count` standard normal draws:
    the integral of 1 - Phi^n above 0 minus Phi^n below."""
    if count == 1:
        return 0.0
    step, normal = 0.005, NormalDist()
    powers = [normal.cdf(step * number) ** count for number in range(int(9 / step) + 1)]
    below = [normal.cdf(-step * number) ** count for number in range(int(9 / step) + 1)]
    return step * (
        sum(1 - power for power in powers) - (1 - powers[0]) / 2 - sum(below) + below[0] / 2
    )
