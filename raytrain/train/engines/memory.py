"""What a worker's device must hold, what it can hold, and the lowest engine that fits in
between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from raytrain import optimizers
from raytrain.config import Config, TrainConfig

OVERHEAD = 1.15
"""Allocator and framework share on top of counted bytes: between the counts and peaks measured on
the toy world."""
USABLE = 0.9
"""Share of a device's memory that a plan may fill."""
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux tells a container what it may take (cgroups 2 and 1)."""


@dataclass(frozen=True)
class Sizes:
    """What memory depends on, in addition to the settings."""

    weights: int
    """Weights of the model."""
    trainable: int
    """Those that learn, adapters included."""
    frozen_bytes: float
    """Bytes of those that do not, quantized or not."""
    activations: int | None
    """Bytes that one row of the largest bucket keeps for the backward pass;
    None where they were not counted."""
    encoders: int = 0
    """Bytes of encoders that stay with the worker (`data.cache = false`) and of their work."""


class Choice(NamedTuple):
    """An engine and why it was taken."""

    engine: str
    offload: str
    planned: int
    """Bytes it needs on a worker's device, estimated."""
    reason: str

    def __str__(self) -> str:
        offload = {
            "none": "",
            "optimizer": ", the optimizer's state on the host",
            "weights": ", all state on the host",
        }
        return f"{self.engine}{offload[self.offload]}: {self.reason}"


def estimate(
    config: Config, engine: str, offload: str, sizes: Sizes, world_size: int, micro_batch: int
) -> int:
    """Estimate a worker's peak bytes on its device: weights, gradients, optimizer, moving average,
    activations, encoders.

    ZeRO shards by stage (Rajbhandari et al. 2020, table 1): 1 optimizer, 2 also gradients, 3 also
    weights.
    """
    train, learn = config.train, sizes.trainable
    stage = int(engine.removeprefix("zero")) if engine.startswith("zero") else 0
    frozen: float = sizes.frozen_bytes
    weights: float = learn * _width(train.param_dtype)
    gradients = weights
    facts = optimizers.facts(train.optimizer)
    waits = facts.paged and train.gpus_per_worker  # pages that do not fit are on the host
    optimizer: float = 0 if waits else facts.bytes * learn
    if train.param_dtype == "bf16" and train.rounding == "compensated":
        optimizer += 2 * learn
    average: float = 4 * learn if train.ema else 0
    if stage:
        optimizer += 4 * learn  # DeepSpeed keeps another copy of the weights to add its steps to
    if stage >= 1:
        optimizer /= world_size
    if stage >= 2:
        gradients /= world_size
    if stage >= 3:
        frozen, weights, average = frozen / world_size, weights / world_size, average / world_size
    if offload in ("optimizer", "weights"):
        optimizer = 0
    if offload == "weights":
        frozen, weights, average = 0, 0, 0
    return int(
        OVERHEAD
        * (
            frozen
            + weights
            + gradients
            + optimizer
            + average
            + micro_batch * (sizes.activations or 0)
            + sizes.encoders
        )
    )


def choose(
    config: Config, sizes: Sizes, world_size: int, micro_batch: int, memory: int | None
) -> Choice:
    """Return the lowest engine that fits: shards cost traffic and offload costs more,
    and are for what does not fit.

    `memory` is what a worker's device holds, in bytes; None where that is not known, as on a
    machine that only plans.
    """
    train = config.train
    named = [
        each
        for each in _ladder(world_size)
        if train.engine in ("auto", each[0]) and train.offload in ("auto", each[1])
    ]
    if config.model.quantize != "none":
        named = [
            each for each in named if each[0] != "zero3"
        ]  # it would cut packed bits off their scales
    if train.engine != "auto" and not named:  # such as zero1 on one worker, which only tests want
        named = [(train.engine, "none" if train.offload == "auto" else train.offload)]
    if (
        not optimizers.facts(train.optimizer).shards
        or train.param_dtype == "bf16"
        or train.engine != "auto"
    ):
        named = named[:1]  # cannot be cut into shards, or was requested
    room = None if memory is None else int(USABLE * memory)
    needs = [estimate(config, *each, sizes, world_size, micro_batch) for each in named]
    what = "needs" if sizes.activations is not None else "without activations needs"
    for (engine, offload), need in zip(named, needs, strict=True):
        if room is None:
            return Choice(engine, offload, need, f"{what} about {_gib(need)} a worker")
        if need <= room:
            return Choice(
                engine, offload, need, f"{what} about {_gib(need)} of {_gib(room)} a worker"
            )
    assert room is not None
    least = min(range(len(named)), key=needs.__getitem__)
    return Choice(
        *named[least],
        needs[least],
        f"{what} about {_gib(needs[least])} of {_gib(room)} a worker, the least of all: it may "
        "not fit",
    )


def device_memory(train: TrainConfig, world_size: int) -> int | None:
    """Return the bytes of a worker's device: the GPU's, or a share of this machine's memory;
    None where a GPU is elsewhere."""
    if train.memory_gb is not None:
        return int(train.memory_gb * 2**30)
    if train.gpus_per_worker:
        import torch

        return int(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None
    return _host_memory() // world_size


def _host_memory() -> int:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [path.read_text().strip() for path in LIMITS if path.exists()]
    return min([whole, *(int(limit) for limit in limits if limit.isdigit())])  # or "max"


def _ladder(world_size: int) -> Iterator[tuple[str, str]]:
    if world_size == 1:
        yield from (
            ("plain", "none"),
            ("ddp", "none"),
            ("zero2", "optimizer"),
            ("zero3", "weights"),
        )
    else:
        yield from (("ddp", "none"), ("zero1", "none"), ("zero2", "none"), ("zero3", "none"))
        yield from (
            ("zero1", "optimizer"),
            ("zero2", "optimizer"),
            ("zero3", "optimizer"),
            ("zero3", "weights"),
        )


def _width(kind: str) -> int:
    return 4 if kind == "fp32" else 2


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
