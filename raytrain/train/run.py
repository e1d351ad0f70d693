"""One worker's view of a training run: everything the loop and its hooks need,
built from a config."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raytrain import checkpoint, effective, provenance
from raytrain.checkpoint import Checkpoint, Saver
from raytrain.config import Config
from raytrain.config.data import GROWING
from raytrain.data.loading.batch_sampler import BatchSampler
from raytrain.data.loading.read import Dataset, check_dataset
from raytrain.data.store.schema import bucket_size
from raytrain.errors import UserError
from raytrain.log import MetricLog
from raytrain.model import Model, base_hash, build
from raytrain.train import cost, encoders, growing
from raytrain.train.ema import Ema
from raytrain.train.engines import engine as engines
from raytrain.train.engines import memory, speed
from raytrain.train.engines.engine import Engine
from raytrain.train.engines.loss_scale import LossScale
from raytrain.train.guards import disk, out_of_memory, shards
from raytrain.train.guards.hang import Watchdog
from raytrain.train.guards.stop import Watch
from raytrain.train.hooks.clock import Clock
from raytrain.train.order import Segment, batch_sampler_of, pinned, segments_of
from raytrain.train.record import notices
from raytrain.train.record.pace import Pace
from raytrain.train.record.phases import Phases
from raytrain.train.record.sample_log import SampleLog
from raytrain.train.record.used import used

NEAREST = (
    'train.param_dtype = "bf16" with train.rounding = "nearest": steps smaller than 1/256 of a '
    'weight are lost. Set train.rounding to "stochastic" or "compensated", unless the optimizer '
    "is an 8-bit one, which has neither."
)

SMALL = 2**30
"""Bytes that a device may hold beyond the plan without a word: libraries' workspaces."""


@dataclass
class Run:
    """The state of a run on one worker."""

    config: Config
    rank: int
    world_size: int
    device: torch.device
    model: Model
    """The model itself, not its engine's wrapper."""
    engine: Engine
    choice: memory.Choice
    micro_batch: int
    dataset: Dataset
    batch_sampler: BatchSampler
    """The plan of the last segment's steps."""
    segments: list[Segment]
    """Which snapshot was or is trained on from which step on."""
    grows: bool
    """The next segment may be of a newer one."""
    ema: Ema | None
    """Of this worker's part of the weights; where every worker has all of them,
    on the first worker only."""
    step: int
    """Optimizer steps done."""
    sample_log: SampleLog
    log: MetricLog | None
    """The sinks, on the first worker only."""
    saver: Saver | None
    """The writer of checkpoints, on the first worker only."""
    watch: Watch | None
    """Whether a stop was requested, on the first worker only."""
    base: Future[str] | None = None
    """The hash of the base's weights, computed beside the first steps, on the first worker
    only."""
    phases: Phases | None = None
    """What is done, on the first worker only."""
    watchdog: Watchdog | None = None
    """Ends this process when it is stuck."""
    stopping: bool = False
    """All workers know that the run is to end after this step."""
    saved: int = -1
    """The step of the last checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The newest value of every metric."""
    measured: dict[str, int] = field(default_factory=dict)
    """The step of each of them."""
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=Pace)
    minutes: tuple[float, float] = (0.0, 0.0)
    """The first worker's clock, which all workers go by, after the last step but one and after the
    last."""

    @property
    def is_main(self) -> bool:
        """Return whether this worker writes the run's files."""
        return self.rank == 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        steps = None if self.segments[-1].last else self.config.train.steps
        return self.batch_sampler.total_steps if steps is None else steps

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in half precision where the config sets it."""
        return speed.autocast(self.config.train, self.device)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over workers of a small tensor."""
        value = value.detach()
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.world_size
        return value

    def record(self, values: dict[str, float], *, step: int | None = None) -> None:
        """Keep metrics and write them to the sinks."""
        step = self.step if step is None else step
        self.metrics |= values
        self.measured |= dict.fromkeys(values, step)
        if self.log is not None:
            self.log.metrics(step, values)

    def beat(self, doing: str) -> None:
        """Say that there is progress, and what is done next."""
        if self.watchdog is not None:
            self.watchdog.beat(doing)
        if self.phases is not None:
            self.phases.begin(doing)

    def tell(self, text: str) -> None:
        """Write a notice for the user."""
        notices.tell(self.config.output, text, self.rank)

    def compare_memory(self) -> None:
        """Record the most memory that a device held so far next to what was planned,
        and write a notice where it is much more."""
        if self.device.type != "cuda":
            return  # a process on the CPU shares its memory with libraries, Ray and the page cache
        peak = torch.cuda.max_memory_allocated()
        self.record(
            {"memory_peak_mb": peak / 2**20, "memory_planned_mb": self.choice.planned / 2**20}
        )
        if peak > 1.25 * self.choice.planned + SMALL:
            self.tell(
                f"A step holds {peak / 2**30:.1f} GiB where {self.choice.planned / 2**30:.1f} GiB "
                "were planned."
            )

    def weights(self) -> dict[str, Tensor]:
        """Return copies on the CPU of what learns, by public name, on the first worker;
        a collective."""
        return self._collected(self.engine.local())

    def save(self) -> None:
        """Copy the state and write it as a checkpoint while training continues; a collective,
        since shards are gathered."""
        if self.saved == self.step:
            return
        self.saved = self.step
        self.sample_log.write()
        if self.log is not None:
            self.log.flush()  # a run that goes on from here has its rows
        optimizer: dict[str, Tensor] = {}
        with self.engine.inference():
            weights = self.weights()
            for name, value in self.engine.optimizer_state():  # the others only help to gather
                if self.is_main:
                    optimizer[name] = checkpoint.copied(value)
        shadow = self._collected(self.ema.shadow) if self.ema else None
        if self.saver is None:
            return
        state = {
            "step": self.step,
            "metrics": dict(self.metrics),
            "measured": dict(self.measured),
            "config": self.config.values(),
            "dataset": self.dataset.manifest.fingerprint,
            "base": self.base.result() if self.base else base_hash(self.config),
            "snapshot": self.dataset.manifest.number,
            "segments": [asdict(segment) for segment in self.segments],
            "ema_updates": self.ema.updates if self.ema else 0,
            "loss_scale": vars(self.engine.scale) if self.engine.scale else None,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
        }
        self._note(self.saver.save(Checkpoint(weights, optimizer, state, shadow)))

    def close(self) -> None:
        """Wait until the last checkpoint is written, and close the sinks;
        raises what failed in writing."""
        if self.watchdog is not None:
            self.watchdog.close()
        try:
            if self.saver is not None:
                self._note(self.saver.close())
        finally:
            if self.log is not None:
                self.log.close()
            if self.phases is not None:
                self.phases.close()

    def _collected(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for name, part in parts.items():
            whole = self.engine.gather(part, name)
            if self.is_main:
                found[name] = checkpoint.copied(whole)
        return found

    def _note(self, written: dict[str, float]) -> None:
        # not in `metrics`: seconds are no result, and a checkpoint holds those
        if written and self.log is not None:
            self.log.metrics(self.step, written)


def load_model(config: Config, device: torch.device) -> Model:
    """Return the model on a device, its frozen weights in the precision of the run,
    what learns in `train.param_dtype`."""
    built = build(config, device, speed.PRECISIONS[config.train.precision])
    if config.train.param_dtype == "bf16":
        for weight in built.learning().values():
            weight.data = weight.data.bfloat16()
    return built


def start(config: Config, rank: int, world_size: int) -> Run:
    """Build a run, going on from its last checkpoint where it has one."""
    if config.train.gpus_per_worker and not torch.cuda.is_available():
        raise UserError(
            f"train.gpus_per_worker = {config.train.gpus_per_worker:g}, but PyTorch finds no GPU "
            "on this machine; nothing was trained. Set it to 0, or run where there is one."
        )
    phases = Phases(config.output) if rank == 0 else None
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if config.train.gpus_per_worker
        else torch.device("cpu")
    )
    found = checkpoint.listing(config.output)
    saved = checkpoint.load(found[-1]) if found else None
    grows = config.data.snapshot == GROWING
    config = pinned(config, saved.state if saved else None)
    check_dataset(config)
    dataset = Dataset.of(config, device)
    segments = segments_of(saved.state) if saved else [growing.first(dataset.manifest, grows)]
    batch_sampler = batch_sampler_of(config, dataset.counts(), segments[-1])
    model = load_model(config, device)
    speed.prepare(model, config.train, device)
    if config.train.gradient_checkpointing:
        model.checkpoint_activations()
    base = ThreadPoolExecutor(1).submit(base_hash, config) if rank == 0 else None
    if saved is not None:
        hashed = base.result() if base else None
        checkpoint.check_same_run(
            saved.state, config, dataset.manifest.fingerprint, found[-1], hashed
        )
        model.load(saved.weights)
    disk.check(config, sum(weight.numel() for weight in model.learning().values()))
    slots = -(-config.train.global_batch // world_size)
    micro_batch = out_of_memory.micro_batch(config, world_size)
    choice = _choose(config, model, dataset, world_size, micro_batch)
    groups = model.method.groups(config.method)
    if choice.engine.startswith("zero"):
        shards.check(choice.engine, model)
    engine = engines.build(
        choice.engine, choice.offload, model, config.train, slots, micro_batch, groups
    )
    if saved is not None:
        if engine.scale and saved.state.get("loss_scale"):
            engine.scale = LossScale(**saved.state["loss_scale"])
        engine.load_optimizer_state(saved.optimizer)
    ema = _ema(config, engine, saved) if rank == 0 or engine.sharded else None
    step = saved.step if saved else 0
    log, saver = None, None
    if rank == 0:
        provenance.record(config)
        workers = f"{world_size} worker{'s' if world_size > 1 else ''} from step {step}"
        notices.tell(
            config.output,
            f"Training with {workers}, {micro_batch} images at a time; engine {choice}; optimizer "
            f"{config.train.optimizer} with a learning rate of {config.train.learning_rate:g}.",
        )
        if config.train.param_dtype == "bf16" and config.train.rounding == "nearest":
            notices.tell(config.output, NEAREST)
        log = MetricLog(config, step)
        saver = Saver(config.output, config.train.keep_checkpoints, config.train.best_by)
    run = Run(
        config=config, rank=rank, world_size=world_size, device=device, model=model,
        engine=engine, choice=choice, micro_batch=micro_batch, dataset=dataset,
        batch_sampler=batch_sampler, segments=segments, grows=grows, ema=ema, step=step,
        sample_log=SampleLog(config.output, step, rank, world_size), log=log, saver=saver,
        watch=Watch(config.output) if rank == 0 else None,
        base=base, phases=phases,
        watchdog=Watchdog(config.output, rank, 60 * config.train.hang_minutes),
        metrics=dict(saved.state["metrics"]) if saved else {},
        measured=dict(saved.state.get("measured", {})) if saved else {},
        saved=step if saved else -1,
    )  # fmt: skip
    try:
        settings = used(run)  # on all workers: they raise the same mistakes
        if rank == 0 and (told := effective.keep(config.output, "train", settings)):
            run.tell(told)
    except BaseException:
        run.close()  # else its watchdog would end this process later
        raise
    return run


def _count(config: Config, model: nn.Module) -> int:
    if config.model.quantize == "none":
        return sum(weight.numel() for weight in model.parameters())
    from raytrain.quantize import (
        weight_count,
    )  # two seconds of imports that only a quantized base needs

    return weight_count(model)


def _choose(
    config: Config, model: nn.Module, dataset: Dataset, world_size: int, micro_batch: int
) -> memory.Choice:
    """Return the first worker's choice: devices may differ, engines may not."""
    kept, largest = None, max(map(bucket_size, dataset.manifest.buckets), key=math.prod)
    if (
        config.train.gpus_per_worker or config.train.memory_gb
    ):  # counting takes a second, and a CPU has room
        kept = cost.step(config, cost.skeleton(config), *largest, flops=False).activations
    sizes = memory.Sizes(
        weights=_count(config, model),
        trainable=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        frozen_bytes=sum(
            weight.nbytes for weight in model.parameters() if not weight.requires_grad
        ),
        activations=kept,
        encoders=encoders.count(config, *largest).bytes,
    )
    choice = [
        memory.choose(
            config, sizes, world_size, micro_batch, memory.device_memory(config.train, world_size)
        )
    ]
    if world_size > 1:
        dist.broadcast_object_list(choice)
    return choice[0]


def _ema(config: Config, engine: Engine, saved: Checkpoint | None) -> Ema | None:
    if config.train.ema is None:
        return None
    if saved is None or saved.ema is None:
        return Ema(engine.local(), config.train.ema)
    parts = {name: engine.shard(value, name) for name, value in saved.ema.items()}
    return Ema(parts, config.train.ema, int(saved.state["ema_updates"]))
