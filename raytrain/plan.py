"""Plan before pay: what a config would do, without loading a weight or holding a worker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from raytrain import checkpoint, families, pretrained, storage
from raytrain.config import Config
from raytrain.data.loading.read import check_dataset
from raytrain.data.pipeline import room
from raytrain.data.pipeline.notes import of_sources, unread
from raytrain.data.store import drift, schema
from raytrain.data.store.schema import BucketCount, bucket_size
from raytrain.export import run as export
from raytrain.planned import Plan
from raytrain.train import cost, encoders
from raytrain.train.engines import memory
from raytrain.train.guards import beforehand, disk
from raytrain.train.order import batch_sampler_of

CPU_FLOPS, GPU_FLOPS = 2.5e10, 1.0e14
"""Sustained floating point operations a second: one CPU core measured on the toy world;
a bf16 data-center GPU, a guess."""


def plan(config: Config) -> Plan:
    """Check config, model folder and dataset; UserError says what is wrong."""
    family = families.load(config.model.family)
    pretrained.check_parts(config.model, tuple(family.PARTS))
    train = config.train
    slots = train.global_batch // train.workers
    micro = min(train.micro_batch or slots, slots)
    made = storage.exists(storage.join(config.dataset, schema.MANIFEST))
    buckets: dict[str, BucketCount] = {}
    stored: dict[str, int] = {}
    steps = epochs = seconds = None
    note = "; ".join((*unread(config), *of_sources(config)))
    if made:
        manifest = check_dataset(config)
        buckets = manifest.buckets
        changed = drift.note(manifest.settings, config.data.model_dump(mode="json"))
        note = "; ".join(filter(None, (note, changed)))
        batch_sampler = batch_sampler_of(
            config, {name: count.entries for name, count in buckets.items()}
        )
        steps, epochs = (
            batch_sampler.total_steps,
            batch_sampler.total_steps * train.global_batch / batch_sampler.rows_per_epoch,
        )
        words = (
            f"{config.dataset}: {sum(c.train + c.held_out for c in buckets.values())} images, "
            f"{manifest.rejected} rejected"
        )
    else:
        listed = room.listed(config)
        words = f"{config.dataset}: not prepared yet; {_listed(listed)}"
        stored = room.estimate(config, sum(count or 0 for _, count in listed))
        room.check_estimate(config)
    beforehand.check(config)
    beforehand.check_judges(config)
    model = cost.skeleton(config)
    export.check(config, model)
    weights = cost.weights(config, model)
    disk.check(config, weights.trainable)
    largest = max(map(bucket_size, buckets), default=_square(config), key=math.prod)
    row = cost.step(config, model, *largest)
    online = encoders.count(config, *largest)
    sizes = memory.Sizes(
        weights.all, weights.trainable, weights.frozen_bytes, row.activations, online.bytes
    )
    engine = memory.choose(
        config, sizes, train.workers, micro, memory.device_memory(train, train.workers)
    )
    if steps is not None:
        speed = GPU_FLOPS if train.gpus_per_worker else CPU_FLOPS * train.cpus_per_worker
        seconds = steps * row.flops * slots / speed
    found = checkpoint.listing(config.output)
    return Plan(
        config=config, dataset=words, buckets=buckets, steps=steps, epochs=epochs,
        micro_batch=micro, accumulation=-(-slots // micro), parameters=weights.all,
        trainable_parameters=weights.trainable, engine=str(engine), seconds=seconds, row=row,
        resumes_from=int(checkpoint.read_state(found[-1])["step"]) if found else 0, note=note,
        stored=stored, encoders=online, memory=engine.planned,
    )  # fmt: skip


def _listed(listed: Sequence[tuple[str, int | None]]) -> str:
    """Say what the sources hold."""
    said = []
    for source, count in listed:
        most = "at least " if count == room.LISTED else ""
        holds = f"holds {most}{count} images"
        said.append(
            f"{source} {'is downloaded when the images are prepared' if count is None else holds}"
        )
    return ", ".join(said)


def _square(config: Config) -> tuple[int, int]:
    """Return the size of a square image, where the dataset's buckets are not known yet."""
    side = config.data.buckets.resolution
    return side, side
