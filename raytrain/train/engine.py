"""Engines: how gradients of several micro-batches and workers become one optimizer step. Few verbs, one shape.

`plain` is PyTorch alone on one worker; `ddp` is the same on several, each holding everything (Li et al. 2020,
arXiv:2006.15704); `zero0` to `zero3` are DeepSpeed on any number (Rajbhandari et al. 2020, arXiv:1910.02054): 0 replicates
everything, 1 shards the optimizer, 2 also gradients, 3 also weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytrain.config import TrainConfig
from raytrain.train import optim

AUTO = {"lora": ("plain", "ddp"), "full": ("plain", "zero2")}
"""Method -> the lowest engine that fits for one worker and for several."""


def choose(config: TrainConfig, method: str) -> str:
    """Return the engine's name; `auto` takes the lowest that fits: shards cost traffic and are for when weights do not fit."""
    if config.engine != "auto":
        return config.engine
    one, several = AUTO.get(method, ("plain", "zero2"))
    if config.workers > 1 and config.optimizer != "adamw":
        return "ddp"
    return one if config.workers == 1 else several


class PlainEngine:
    """One worker, PyTorch's own autograd and optimizer."""

    sharded = False

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.model, self.clip = model, config.clip
        self._names = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._optimizer = optim.build(self._names.values(), config)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update the weights, forget the gradients; returns the gradient's norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = nn.utils.clip_grad_norm_(self._names.values(), self.clip or float("inf"), foreach=True)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def gathered(self, read: Callable[[], Any]) -> Any:
        """Call `read` while every weight is whole."""
        return read()

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the optimizer's tensors as `<parameter>|<state>`."""
        found = {}
        for name, weight in self._names.items():
            for key, value in self._optimizer.state.get(weight, {}).items():
                found[f"{name}|{key}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return found

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put such a state back."""
        for name, value in tensors.items():
            parameter, key = name.rsplit("|", 1)
            optim.restore(self._optimizer, self._names[parameter], key, value)


class ParallelEngine(PlainEngine):
    """The same on several workers, which average their gradients while the last backward pass of a step goes on."""

    def __init__(self, model: nn.Module, config: TrainConfig, accumulation: int) -> None:
        super().__init__(model, config)
        self.model: nn.Module = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)
        self._accumulation = accumulation
        self._expect(0)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the last of a step also averages them over workers."""
        super().backward(loss)
        self._expect(self._added + 1)

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update the weights, forget the gradients; returns the gradient's norm before clipping."""
        norm = super().step(learning_rate)
        self._expect(0)
        return norm

    def _expect(self, added: int) -> None:
        """Let only the last micro-batch of a step talk to the other workers; DDP must know before its forward pass."""
        self._added = added
        self.model.require_backward_grad_sync = added == self._accumulation - 1  # type: ignore[assignment]


class DeepSpeedEngine:
    """DeepSpeed ZeRO 0 to 3 over the process group that is already there."""

    def __init__(self, model: nn.Module, config: TrainConfig, stage: int, micro_batch: int, accumulation: int) -> None:
        deepspeed = import_deepspeed()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": config.clip or 0.0,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "steps_per_print": 10**9,
        }
        self._stage, self._original = stage, model
        self.sharded = stage == 3
        self._engine, *_ = deepspeed.initialize(
            model=model, model_parameters=weights, optimizer=optim.build(weights, config), config=settings
        )
        self.model: nn.Module = self._engine
        self._names = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the last of a step also averages them over workers."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> Tensor:
        """Clip, update the weights, forget the gradients; returns the gradient's norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(float("nan") if norm is None else float(norm))

    def gathered(self, read: Callable[[], Any]) -> Any:
        """Call `read` on every worker while every trainable weight is whole."""
        if not self.sharded:
            return read()
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self._names.values())):
            return read()

    def optimizer_state(self) -> dict[str, Tensor]:
        """Return the whole optimizer's tensors as `<parameter>|<state>`; a collective, every worker gets all."""
        if self._stage == 0:
            inner = self._inner()
            return {
                f"{name}|{key}": value if isinstance(value, Tensor) else torch.tensor(value)
                for name, weight in self._names.items()
                for key, value in inner.state.get(weight, {}).items()
            }
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = {int(state["step"]) for state in self._inner().state.values() if "step" in state}
        found = {}
        for name, weight in self._names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                found[f"{name}|{key}"] = safe_get_full_optimizer_state(weight, key).detach().clone()
            found[f"{name}|step"] = torch.tensor(float(max(steps)))
        return found

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put such a state back, whatever engine and number of workers it came from."""
        inner = self._inner()
        if self._stage == 0:
            for name, value in tensors.items():
                parameter, key = name.rsplit("|", 1)
                optim.restore(inner, self._names[parameter], key, value)
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        zero = self._engine.optimizer
        flats = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        step = next(value for name, value in tensors.items() if name.endswith("|step"))
        for flat in flats:  # AdamW fills its state at the first step; a resumed one must have it before
            inner.state[flat] = {
                "step": step.to(flat.device, copy=True), "exp_avg": torch.zeros_like(flat), "exp_avg_sq": torch.zeros_like(flat)
            }  # fmt: skip
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()
        for name, weight in self._names.items():
            for key in ("exp_avg", "exp_avg_sq"):
                safe_set_full_optimizer_state(weight, tensors[f"{name}|{key}"].to(flats[0].device), key)

    def _inner(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


Engine = PlainEngine | ParallelEngine | DeepSpeedEngine


def build(name: str, model: nn.Module, config: TrainConfig, slots: int) -> tuple[Engine, int]:
    """Return the engine and the micro-batch size for `slots` pictures per worker and step."""
    micro_batch = min(config.micro_batch or slots, slots)
    if name == "plain":
        return PlainEngine(model, config), micro_batch
    if not dist.is_initialized():  # one process without a Ray session
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")  # what a launcher sets and DeepSpeed asks for
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    accumulation = -(-slots // micro_batch)
    if name == "ddp":
        return ParallelEngine(model, config, accumulation), micro_batch
    stage = int(name.removeprefix("zero"))
    return DeepSpeedEngine(model, config, stage, micro_batch, accumulation), micro_batch


def import_deepspeed() -> Any:
    """Import DeepSpeed quietly; on a CPU without its compiled collectives, which take a minute to build and save little."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import logging

    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
