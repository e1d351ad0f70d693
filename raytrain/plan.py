"""Plan before pay: what a config would do, from files' headers alone, without loading a weight or holding a worker."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raytrain import checkpoint, families, methods, pretrained, storage
from raytrain.config import Config
from raytrain.data import drift, schema, sources
from raytrain.data.item import Item
from raytrain.data.read import check_dataset, require
from raytrain.data.schema import BucketCount, bucket_size
from raytrain.train import memory
from raytrain.train.run import ledger_of

LISTED = 100_000
"""Pictures of a source that a plan counts."""
BACKWARD_FLOPS = 3.0
"""A training step costs about three forward passes: one forward, two backward."""
QUANTIZED_BITS = {"int8": 8.1, "nf4": 4.13}
"""Bits of a quantized weight: its own and its share of the scales, one a row (int8) or twice quantized a block of 64 (nf4)."""
CPU_FLOPS, GPU_FLOPS = 2.5e10, 1.0e14
"""Sustained floating point operations a second: one CPU core measured on the toy world; a bf16 data-centre GPU, a guess."""


@dataclass(frozen=True)
class Plan:
    """What would run."""

    config: Config
    dataset: str
    """In words: ready with its rows, or what prepare would read."""
    buckets: dict[str, BucketCount] = field(default_factory=dict)
    steps: int | None = None
    epochs: float | None = None
    engine: str = ""
    """Its name, and why it was taken."""
    micro_batch: int = 0
    accumulation: int = 1
    denoiser_parameters: int = 0
    trainable_parameters: int = 0
    seconds: float | None = None
    resumes_from: int = 0
    note: str = ""
    """What to know of the dataset."""


def plan(config: Config) -> Plan:
    """Check config, model folder and dataset; UserError says what is wrong."""
    family = families.load(config.model.family)
    pretrained.check_parts(config.model, tuple(family.PARTS))
    part = families.denoiser(family)
    shapes = weight_shapes(pretrained.folder(config.model) / part)
    total = sum(_product(shape) for shape in shapes.values())
    trainable = _trainable(config, shapes, family.LORA_TARGETS[part])
    train = config.train
    slots = train.global_batch // train.workers
    micro = min(train.micro_batch or slots, slots)
    made = storage.exists(storage.join(config.dataset, schema.MANIFEST))
    buckets: dict[str, BucketCount] = {}
    steps = epochs = seconds = None
    note = ""
    if made:
        manifest = check_dataset(config)
        require(manifest, config.dataset, methods.load(config.method).columns(family, config.method))
        buckets = manifest.buckets
        note = drift.note(manifest.settings, config.data.model_dump(mode="json"))
        ledger = ledger_of(config, {name: count.entries for name, count in buckets.items()})
        steps, epochs = ledger.total_steps, ledger.total_steps * train.global_batch / ledger.rows_per_epoch
        words = f"{config.dataset}: {sum(c.train + c.held_out for c in buckets.values())} pictures, {manifest.rejected} rejected"
    else:
        words = f"{config.dataset}: not prepared yet; {_listed(config)}"
    side = max(
        (bucket_size(name)[0] * bucket_size(name)[1] for name in buckets), default=config.data.buckets.resolution**2
    )
    sizes = memory.Sizes(total, trainable, frozen_bytes(config, shapes), side)
    engine = memory.choose(config, sizes, train.workers, micro, memory.device_memory(train, train.workers))
    if steps is not None:
        speed = GPU_FLOPS if train.gpus_per_worker else CPU_FLOPS * train.cpus_per_worker
        seconds = steps * BACKWARD_FLOPS * _forward_flops(total, side) * slots / speed
    found = checkpoint.listing(config.output)
    return Plan(
        config=config, dataset=words, buckets=buckets, steps=steps, epochs=epochs, micro_batch=micro,
        accumulation=-(-slots // micro), denoiser_parameters=total, trainable_parameters=trainable,
        engine=str(engine), seconds=seconds,
        resumes_from=int(checkpoint.read_state(found[-1])["step"]) if found else 0, note=note,
    )  # fmt: skip


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of every tensor of a component, from its safetensors headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def frozen_bytes(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the bytes of the denoiser's weights that do not learn; linear layers have weights of two dimensions."""
    if config.method.name == "full":
        return 0
    width = 2 if config.train.precision == "bf16" else 4
    linear = QUANTIZED_BITS.get(config.model.quantize, 8 * width) / 8
    return sum(_product(shape) * (linear if len(shape) == 2 else width) for shape in shapes.values())


def show(result: Plan) -> None:
    """Print a plan."""
    console, train = Console(), result.config.train
    console.print(f"[bold]dataset[/]   {result.dataset}")
    if result.note:
        console.print(f"note: {result.note}", style="yellow", markup=False)
    if result.buckets:
        table = Table("bucket", "train", "held out", "batches an epoch")
        for name, count in sorted(result.buckets.items()):
            batches = count.train * result.config.data.repeats / train.global_batch
            table.add_row(name, str(count.train), str(count.held_out), f"{batches:.1f}")
        console.print(table)
    console.print(
        f"[bold]model[/]     {result.config.model.family} {result.config.model.path}, "
        f"{result.denoiser_parameters / 1e6:.2f} M weights, {result.trainable_parameters / 1e6:.3f} M learn "
        f"({result.config.method.name})"
    )
    length = "known after prepare" if result.steps is None else f"{result.steps} steps, {result.epochs:.1f} epochs"
    console.print(f"[bold]run[/]       {length}; global batch {train.global_batch} = {train.workers} workers x "
                  f"{result.micro_batch} x {result.accumulation} steps; {train.precision}")  # fmt: skip
    if result.resumes_from:
        console.print(f"[bold]resumes[/]   from step {result.resumes_from}")
    console.print(f"[bold]engine[/]    {result.engine}")
    if result.seconds is not None:
        where = "GPU" if train.gpus_per_worker else "CPU"
        console.print(
            f"[bold]time[/]      about {_duration(result.seconds)} of training on this {where}, give or take 3x"
        )
    console.print(f"[bold]output[/]    {result.config.output}")


def _listed(config: Config) -> str:
    """Say what the sources hold; a broken source is a UserError."""
    counts = []
    for subset in config.data.all_subsets():
        found = sum(isinstance(entry, Item) for entry in itertools.islice(sources.items(subset), LISTED))
        counts.append(f"{subset.source} holds {found if found < LISTED else f'at least {found}'} pictures")
    return ", ".join(counts)


def _trainable(config: Config, shapes: dict[str, tuple[int, ...]], family_targets: tuple[str, ...]) -> int:
    if config.method.name == "full":
        return sum(_product(shape) for shape in shapes.values())
    rank = int(getattr(config.method, "rank", 0))
    targets = getattr(config.method, "targets", ()) or family_targets
    count = 0
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and any(layer == target or layer.endswith(f".{target}") for target in targets):
            count += rank * (shape[0] + _product(shape[1:]))
    return count


def _forward_flops(parameters: int, side: int) -> float:
    # SD1.5's U-Net: 0.86 G weights, 0.8 TFLOP a forward pass at 512 px (4,096 latent cells): about 0.23 a weight and cell.
    return 0.23 * parameters * side / 64


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _duration(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} h"
        if seconds > 5400
        else f"{seconds / 60:.1f} min"
        if seconds > 90
        else f"{seconds:.0f} s"
    )
