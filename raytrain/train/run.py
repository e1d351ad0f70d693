"""One worker's view of a training run: everything the loop and its hooks need, built from a config."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raytrain import checkpoint, families, methods, provenance, storage
from raytrain.checkpoint import Checkpoint, Saver
from raytrain.config import Config
from raytrain.data.ledger import Ledger
from raytrain.data.read import Dataset, check_dataset
from raytrain.errors import UserError
from raytrain.families import Family
from raytrain.log import MetricLog
from raytrain.methods import Method
from raytrain.objective import Objective
from raytrain.train import engine as engines
from raytrain.train import speed
from raytrain.train.ema import Ema
from raytrain.train.engine import Engine
from raytrain.train.stop import Watch
from raytrain.train.trail import Trail


@dataclass
class Run:
    """The state of a run on one worker."""

    config: Config
    rank: int
    world: int
    device: torch.device
    family: Family
    method: Method
    denoiser: nn.Module
    """The model itself, not its engine's wrapper."""
    engine: Engine
    engine_name: str
    micro_batch: int
    objective: Objective
    dataset: Dataset
    ledger: Ledger
    ema: Ema | None
    step: int
    """Optimizer steps done."""
    trail: Trail
    log: MetricLog | None
    """The sinks, on the first worker only."""
    saver: Saver | None
    """The writer of checkpoints, on the first worker only."""
    watch: Watch | None
    """Whether somebody asked the run to end, on the first worker only."""
    stopping: bool = False
    """All workers know that the run is to end after this step."""
    saved: int = -1
    """The step of the last checkpoint."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The newest value of every metric."""

    @property
    def leads(self) -> bool:
        """Tell whether this worker writes the run's files."""
        return self.rank == 0

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.ledger.total_steps

    def autocast(self) -> AbstractContextManager[None]:
        """Compute in bfloat16 where the config says so."""
        enabled = self.config.train.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over workers of a small tensor, on the CPU."""
        value = value.detach()
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / self.world
        return value.cpu()

    def record(self, values: dict[str, float], *, step: int | None = None) -> None:
        """Keep metrics and write them to the sinks."""
        self.metrics |= values
        if self.log is not None:
            self.log.metrics(self.step if step is None else step, values)

    def save(self) -> None:
        """Copy the state and write it as a checkpoint while training goes on; a collective, since shards are gathered."""
        if self.saved == self.step:
            return
        self.saved = self.step
        self.trail.write()
        kept = checkpoint.copied if self.leads else dict  # the others only help to gather
        weights = self.engine.gathered(lambda: kept(self.method.state(self.denoiser)))
        optimizer = kept(
            {self.method.public_name(name): value for name, value in self.engine.optimizer_state().items()}
        )
        if self.saver is None:
            return
        state = {
            "step": self.step,
            "metrics": dict(self.metrics),
            "config": self.config.values(),
            "dataset": self.dataset.manifest.fingerprint,
            "snapshot": self.dataset.manifest.number,
            "ema_updates": self.ema.updates if self.ema else 0,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
        }
        shadow = checkpoint.copied(self.ema.shadow) if self.ema else None
        self._note(self.saver.save(Checkpoint(weights, optimizer, state, shadow)))

    def close(self) -> None:
        """Wait until the last checkpoint is written, and close the sinks; raises what failed in writing."""
        try:
            if self.saver is not None:
                self._note(self.saver.close())
        finally:
            if self.log is not None:
                self.log.close()

    def _note(self, written: dict[str, float]) -> None:
        if written and self.log is not None:  # not in `metrics`: seconds are no result, and a checkpoint holds those
            self.log.metrics(self.step, written)


def ledger_of(config: Config, counts: dict[str, int]) -> Ledger:
    """Return the plan of a run over a dataset's training rows."""
    if not sum(counts.values()):
        raise UserError(f"The dataset {config.dataset!r} has no training rows. Add pictures or lower data.held_out.")
    train = config.train
    epochs = train.epochs if train.steps is None else None
    return Ledger(
        counts, batch=train.global_batch, seed=config.seed, steps=train.steps, repeats=config.data.repeats,
        epochs=epochs or (10 if train.steps is None else None),
    )  # fmt: skip


def start(config: Config, rank: int, world: int) -> Run:
    """Build a run, going on from its last checkpoint where it has one."""
    device = torch.device("cuda", torch.cuda.current_device()) if config.train.gpus_per_worker else torch.device("cpu")
    found = checkpoint.listing(config.output)
    saved = checkpoint.load(found[-1]) if found else None
    config = _pinned(config, saved)
    check_dataset(config)
    dataset = Dataset.of(config)
    ledger = ledger_of(config, dataset.counts())
    family, method = families.load(config.model.family), methods.load(config.method)
    precision = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    denoiser = family.load_denoiser(config.model, precision)
    method.prepare(denoiser, family, config.method, config.seed)
    denoiser.to(device)
    speed.prepare(denoiser, config.train, device)
    if config.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        denoiser.train()  # diffusers checkpoints only in training mode; these denoisers have no dropout
    if saved is not None:
        checkpoint.check_same_run(saved.state, config, dataset.manifest.fingerprint, found[-1])
        method.load_state(denoiser, saved.weights)
    name = engines.choose(config.train, config.method.name)
    engine, micro_batch = engines.build(name, denoiser, config.train, -(-config.train.global_batch // world))
    ema = _ema(config, method, denoiser, engine, saved)
    if saved is not None:
        own = {method.public_name(n): n for n, weight in denoiser.named_parameters() if weight.requires_grad}
        engine.load_optimizer_state({_own_name(key, own): value for key, value in saved.optimizer.items()})
    schedule = family.load_schedule(config.model).to(device)
    step = saved.step if saved else 0
    log, saver = None, None
    if rank == 0:
        provenance.record(config)
        log, saver = MetricLog(config, step), Saver(config.output, config.train.keep_checkpoints)
    return Run(
        config=config, rank=rank, world=world, device=device, family=family, method=method, denoiser=denoiser,
        engine=engine, engine_name=name, micro_batch=micro_batch, dataset=dataset, ledger=ledger, ema=ema, step=step,
        trail=Trail(config.output, step, rank, world), log=log, saver=saver,
        watch=Watch(config.output) if rank == 0 else None,
        objective=Objective(family, schedule, config.objective, config.seed),
        metrics=dict(saved.state["metrics"]) if saved else {}, saved=step if saved else -1,
    )  # fmt: skip


def _pinned(config: Config, saved: Checkpoint | None) -> Config:
    """Name the snapshot of the dataset that a run goes on with: the one it began with, unless the config names another."""
    if saved is None or config.data.snapshot != "latest":
        return config
    data = config.data.model_copy(update={"snapshot": str(saved.state["snapshot"]), "partial": True})
    return config.model_copy(update={"data": data})


def finished(config: Config) -> bool:
    """Tell whether a run's result is already written."""
    return storage.exists(storage.join(config.output, "train.json"))


def _ema(config: Config, method: Method, denoiser: nn.Module, engine: Engine, saved: Checkpoint | None) -> Ema | None:
    if config.train.ema is None:
        return None
    weights = engine.gathered(lambda: {k: v.clone() for k, v in method.state(denoiser).items()})
    if saved is None or saved.ema is None:
        return Ema(weights, config.train.ema)
    device = next(iter(weights.values())).device
    return Ema({k: v.to(device) for k, v in saved.ema.items()}, config.train.ema, int(saved.state["ema_updates"]))


def _own_name(key: str, own: dict[str, str]) -> str:
    name, state = key.rsplit("|", 1)
    return f"{own[name]}|{state}"
