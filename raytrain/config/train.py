"""`[train]`: how long, how fast and on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from raytrain import optimizers
from raytrain.config.period import Period, RealPeriod, Share, in_steps
from raytrain.table import Interval, Table


class TrainConfig(Table):
    """`[train]`: how long, how fast and on what."""

    epochs: int | None = Field(None, ge=1)
    steps: int | None = Field(None, ge=1)
    """Exactly one of epochs and steps; neither means 10 epochs."""
    global_batch: int = Field(4, ge=1)
    """Images of one optimizer step over all workers."""
    micro_batch: int | None = Field(None, ge=1)
    """Images of one forward pass on one worker; the rest is accumulated. Default:
    no accumulation."""
    learning_rate: float = Field(1e-4, gt=0)
    """Default: the optimizer's, as of the three keys below; 1e-4 for AdamW, 1 for Prodigy."""
    lr_schedule: Literal["constant", "linear", "cosine", "polynomial", "cosine_restarts"] = (
        "constant"
    )
    lr_schedule_power: float | None = Field(None, gt=0)
    """Of `polynomial`; default 2."""
    lr_schedule_cycles: int | None = Field(None, ge=2)
    """Of `cosine_restarts`, each from the whole learning rate to 0; default 2."""
    warmup: Share = 0
    """Steps of linear warm-up, or their share of all, such as "5 %"."""
    optimizer: str = "adamw"
    """A file of `raytrain/optimizers`, or the dotted path of a `torch.optim.Optimizer` class."""
    optimizer_options: dict[str, Any] = Field({})
    """Of that optimizer: the `Options` of its file, or its constructor's arguments."""
    betas: Interval | None = (0.9, 0.999)
    epsilon: float | None = Field(1e-8, gt=0)
    weight_decay: float | None = Field(1e-2, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Largest norm of the gradient over all trainable weights; longer ones are scaled down."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """bf16, fp16: autocast, frozen weights in that type; fp16 scales the loss so that small
    gradients are not lost."""
    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """Type of the trainable weights. bf16 takes half the memory, but its steps are coarse:
    see `rounding`."""
    rounding: Literal["stochastic", "compensated", "nearest"] = "stochastic"
    """How a step smaller than bf16 weights resolve is kept: on average, exactly
    (two more bytes a weight), or not at all."""
    gradient_checkpointing: bool = False
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of a convolution's weights in memory; `auto` is channels_last on a GPU. Under ZeRO
    always contiguous."""
    deterministic: bool = True
    """On a GPU take kernels that give the same bits every time, so that a resumed run repeats an
    unbroken one. Without, some steps are faster and the last digits differ."""
    compile: bool = False
    """Compile the denoiser's repeated blocks: minutes before the first step of each shape,
    then faster ones."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay of the moving average of the trainable weights, 0.9999 is usual."""
    engine: Literal["auto", "plain", "ddp", "zero1", "zero2", "zero3"] = "auto"
    """`auto`: the lowest that fits the device's memory; the higher ones cut more of the state into
    shards."""
    offload: Literal["auto", "none", "optimizer", "weights"] = "auto"
    """What ZeRO keeps in the host's memory: the optimizer's state, or all weights too
    (zero3). `auto`: what must be."""
    memory_gb: float | None = Field(None, gt=0)
    """Memory of a worker's device in GiB; default: as found."""
    workers: int = Field(1, ge=1)
    min_workers: int | None = Field(None, ge=1)
    """Continue with as few as this many when workers or nodes are lost,
    and with more when they are back."""
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)
    max_failures: int = Field(3, ge=0)
    """Worker deaths survived by restarting from the last checkpoint."""
    hang_minutes: float = Field(30, gt=0)
    """A longer step counts as stuck: the stacks of all workers are written down,
    and they restart."""
    log_every: RealPeriod = in_steps(10)
    """Between numbers for TensorBoard and wandb; `metrics.jsonl` has every step's. Like the four
    below, a number of steps, or text: "500 steps", "2 epochs" (of the data), "10 minutes" (of
    training, hooks not counted, since the launch)."""
    checkpoint_every: RealPeriod = in_steps(500)
    keep_checkpoints: int = Field(2, ge=1)
    """The last so many checkpoints are kept, and the best one."""
    best_by: dict[str, float] = Field({"held_out_loss": -1.0}, min_length=1)
    """Weights of the metrics whose weighted sum is highest in the best checkpoint."""
    held_out_every: Period = in_steps(100)
    """Between held-out losses; 0 means only at the start and the end."""
    sample_every: Period = in_steps(0)
    """Between validation images; 0 means only at the start and the end."""
    score_every: Period = in_steps(0)
    """Between evaluations with the scorers of [evaluate]; 0 means never. With it,
    0 above means never too (as in a sweep)."""
    async_validation: bool = False
    """Make validation images and scores on a separate Ray actor while training continues. While
    the actor is busy, the newest request waits and replaces an older one. A failure there is
    reported at the end and does not stop training."""
    async_validation_cpus: float = Field(1, ge=0)
    """CPUs of that actor, beyond what the workers hold."""
    async_validation_gpus: float = Field(0, ge=0)
    """GPUs of that actor; 0 makes the images on the CPU."""
    profile: int = Field(0, ge=0)
    """Steps to record with PyTorch's profiler, after a few to warm up, into <output>/profile."""

    @model_validator(mode="before")
    @classmethod
    def _optimizers_own(cls, tree: Any) -> Any:
        """Fill in what the optimizer takes where nothing is set,
        so that a stored config says what a run was trained with."""
        name = tree.get("optimizer", "adamw") if isinstance(tree, Mapping) else None
        return {**optimizers.defaults(name), **tree} if isinstance(name, str) else tree

    @model_validator(mode="after")
    def _possible(self) -> TrainConfig:
        if self.epochs is not None and self.steps is not None:
            raise ValueError(
                f"give epochs or steps, not both (got epochs={self.epochs}, steps={self.steps})"
            )
        for key, schedule in (
            ("lr_schedule_power", "polynomial"),
            ("lr_schedule_cycles", "cosine_restarts"),
        ):
            if getattr(self, key) is not None and self.lr_schedule != schedule:
                raise ValueError(
                    f'{key} is for lr_schedule = "{schedule}", got {self.lr_schedule!r}; '
                    "leave it out"
                )
        if self.global_batch % self.workers:
            raise ValueError(
                "global_batch must be a multiple of workers so that every worker does equal work, "
                f"got global_batch={self.global_batch} and workers={self.workers}"
            )
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(
                f"min_workers must be at most workers, got {self.min_workers} and {self.workers}"
            )
        if self.engine == "plain" and self.workers > 1:
            raise ValueError(
                f'engine = "plain" is for one worker, got workers={self.workers}; use "auto" or '
                '"ddp"'
            )
        sharded = self.engine.startswith("zero")
        if self.offload in ("optimizer", "weights") and not (
            sharded and (self.offload == "optimizer" or self.engine == "zero3")
        ):
            raise ValueError(
                'offload = "optimizer" needs engine = "zero1", "zero2" or "zero3", and "weights" '
                f'needs "zero3", got offload={self.offload!r} and engine={self.engine!r}; nothing '
                "else moves its state to the host"
            )
        if self.param_dtype == "bf16":
            self._low_precision(sharded)
        optimizers.check(self)
        return self

    def _low_precision(self, sharded: bool) -> None:
        if sharded:
            raise ValueError(
                f'param_dtype = "bf16" is for engine = "plain" and "ddp", got {self.engine!r}: '
                'ZeRO keeps fp32 weights to add its steps to; use param_dtype = "fp32", whose '
                "shards get smaller with every worker"
            )
        if self.precision != "bf16":
            raise ValueError(
                f'param_dtype = "bf16" needs precision = "bf16", got {self.precision!r}'
            )


FREE_TRAIN_KEYS = {
    "engine", "offload", "memory_gb", "workers", "min_workers", "hang_minutes", "best_by",
    "micro_batch", "cpus_per_worker", "gpus_per_worker", "max_failures", "log_every",
    "checkpoint_every", "keep_checkpoints", "held_out_every", "sample_every", "score_every",
    "async_validation", "async_validation_cpus", "async_validation_gpus", "gradient_checkpointing",
    "memory_format", "compile", "deterministic", "profile",
}  # fmt: skip
"""Keys of [train] that do not change what is learned, so a resumed run may change them."""
