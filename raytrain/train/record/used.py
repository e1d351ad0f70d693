"""What a training run really uses where its config leaves it open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain import methods, storage
from raytrain.config import Config
from raytrain.data.loading.read import Dataset
from raytrain.diffusion.process import Flow, Process
from raytrain.effective import Settings
from raytrain.export import run as export
from raytrain.model import Model
from raytrain.sampling.prompts import size
from raytrain.train.guards import out_of_memory

if TYPE_CHECKING:
    from raytrain.train.run import Run


def used(run: Run) -> Settings:
    """Return the settings of a run that may start, and why they are so."""
    config, train = run.config, run.config.train
    gpus = f"train.gpus_per_worker = {train.gpus_per_worker:g}"
    manifest = run.dataset.manifest
    return {
        "workers": (run.world_size, f"train.workers = {train.workers}"),
        "device": (run.device.type, gpus),
        "dataset": (
            f"snapshot {manifest.number}",
            f"{len(manifest.buckets)} buckets, {run.batch_sampler.rows_per_epoch} images an epoch",
        ),
        "steps": (run.total_steps, _length(config)),
        "engine": (run.choice.engine, _asked("train.engine", train.engine, run.choice.reason)),
        "offload": (run.choice.offload, _asked("train.offload", train.offload, "what must be")),
        "micro_batch": (run.micro_batch, _micro_batch(run)),
        "precision": (train.precision, f"train.precision; weights that learn {train.param_dtype}"),
        "memory_format": _memory_format(run),
        "attention": _attention(run.model),
        "prediction": (
            run.model.objective.process.prediction,
            _asked("objective.prediction", config.objective.prediction, "the model's scheduler"),
        ),
        **_samples(config, run.dataset, run.model.objective.process),
        "formats": (
            export.check(config, run.model),
            _asked("export.formats", config.export.formats, "all that hold what is learned"),
        ),
    }


def _asked(key: str, value: object, why: str) -> str:
    """Return why a setting is so: the config says it, or `auto` leaves it to what is found."""
    return f'{key} = "auto": {why}' if value == "auto" else f"as {key} says"


def _length(config: Config) -> str:
    train = config.train
    if train.steps is not None:
        return "as train.steps says"
    if train.epochs is not None:
        return f"train.epochs = {train.epochs}"
    return "10 epochs, as neither train.steps nor train.epochs is set"


def _micro_batch(run: Run) -> str:
    train = run.config.train
    share = -(-train.global_batch // run.world_size)
    turns = f"{-(-share // run.micro_batch)} a step of train.global_batch = {train.global_batch}"
    if run.micro_batch == share:
        return f"a worker's whole share; {turns}"
    if storage.exists(storage.join(run.config.output, out_of_memory.FILE)):
        return f"memory ran out with more; {turns}"
    return f"as train.micro_batch says; {turns}"


def _memory_format(run: Run) -> tuple[str, str]:
    asked = run.config.train.memory_format
    if run.engine.sharded:
        return "contiguous", "shards have no other order"
    if asked == "auto":
        found = "channels_last" if run.device.type == "cuda" else "contiguous"
        return found, f'train.memory_format = "auto": the device is {run.device.type}'
    return asked, "as train.memory_format says"


def _attention(model: Model) -> tuple[str, str]:
    kinds = {
        type(each).__name__ for each in getattr(model.denoiser, "attn_processors", {}).values()
    }
    return ", ".join(sorted(kinds)) or "the model's own", "diffusers' choice for this PyTorch"


def _samples(config: Config, dataset: Dataset, process: Process) -> dict[str, tuple[object, str]]:
    """Return what is drawn, and how."""
    sample = config.sample
    own = [key for key in ("prompts", "prompt_file") if getattr(sample, key)]
    held_out = any(count.held_out for count in dataset.manifest.buckets.values())
    if own:
        prompts = " and ".join(f"sample.{key}" for key in own), "the config gives them"
    elif held_out:
        prompts = "captions of held-out images", "the config gives none"
    else:
        prompts = "captions of training images", "the config gives none, and none is held out"
    width, height = size(config, dataset.manifest)
    given = [key for key in ("width", "height") if getattr(sample, key)]
    why = "the bucket with most images" if not given else f"as sample.{' and '.join(given)} says"
    if "control" in methods.load(config.method).INPUTS and not own:
        why += ", or that of the control image"
    kind = ("euler", "of flow matching") if isinstance(process, Flow) else ("ddim", "of DDPM")
    return {
        "prompts": prompts,
        "sample size": (f"{width}x{height}", why),
        "scheduler": (
            kind[0] if sample.scheduler == "auto" else sample.scheduler,
            _asked("sample.scheduler", sample.scheduler, f"the usual one {kind[1]}"),
        ),
    }
