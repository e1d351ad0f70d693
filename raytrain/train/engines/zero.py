"""DeepSpeed's ZeRO as an engine (Rajbhandari et al. 2020, arXiv:1910.02054): 1 cuts the
optimizer's state into shards, 2 also the gradients, 3 also the weights; with `offload` the host
keeps the optimizer's state, or all weights too (arXiv:2101.06840)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from raytrain import optimizers
from raytrain.config import TrainConfig
from raytrain.errors import UserError
from raytrain.model import Model
from raytrain.optimizers import Group, _state
from raytrain.train.engines import speed
from raytrain.train.engines.engine import NO_GROUPS, State
from raytrain.train.engines.loss_scale import LossScale


class ZeroEngine:
    """DeepSpeed ZeRO 1 to 3 over the process group that is already there."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        stage: int,
        offload: str,
        micro_batch: int,
        accumulation: int,
        groups: Mapping[str, Group] = NO_GROUPS,
    ) -> None:
        if any(group.freeze_after is not None for group in groups.values()):
            raise UserError(
                "ZeRO cannot stop training a part of the weights (`freeze_after`): it clips and "
                'updates them as one flat tensor. Set train.engine = "ddp" or "plain".'
            )
        deepspeed = import_deepspeed()
        self._names: dict[str, Any] = dict(model.learning())
        self._moments = optimizers.facts(config.optimizer).shards
        zero: dict[str, Any] = {"stage": stage}
        if offload in ("optimizer", "weights"):
            zero["offload_optimizer"] = {"device": "cpu"}
        if offload == "weights":
            zero["offload_param"] = {"device": "cpu"}
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": config.max_grad_norm or 0.0,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            # PyTorch's AdamW works on the host too, without minutes of compiling
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        self._stage = stage
        self.sharded, self.waits = stage == 3, True
        self.scale = LossScale() if config.precision == "fp16" else None
        for weight in (
            model.parameters()
        ):  # DeepSpeed sends and cuts weights as flat memory: channels_last will not do
            if weight.dim() == 4:
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
        if config.precision != "fp32":
            # DeepSpeed turns off a GPU's autocast that is around it, not one that is inside.
            device = next(model.parameters()).device
            model.forward = speed.autocast(config, device)(model.forward)  # type: ignore[method-assign]
        self._engine, *_ = deepspeed.initialize(
            model=model, model_parameters=list(self._names.values()), config=settings,
            optimizer=optimizers.build(self._names, config, groups),
        )  # fmt: skip
        self.model: nn.Module = self._engine
        self._factors = [group.rate for group, _ in optimizers.grouped(self._names, groups)]

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the last of a step also averages them over workers."""
        if self.scale:
            self._engine.optimizer.loss_scale = (
                self.scale.value
            )  # DeepSpeed scales the loss and unscales gradients by it
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float, loss: Tensor, number: int) -> Tensor:
        """Clip, update the weights where all is finite, zero the gradients;
        returns their norm before clipping."""
        if not loss.isfinite():
            self.zero_grad()
            return loss
        zero = self._engine.optimizer
        for group, factor in zip(zero.param_groups, self._factors, strict=True):
            group["lr"] = learning_rate * factor
        counts = [group.get("step", 0) for group in zero.param_groups]
        self._engine.step()
        for group, count in zip(zero.param_groups, counts, strict=True):
            if "step" in group and not zero.overflow:
                group["step"] = (
                    count + 1
                )  # ZeRO-3 steps once for each group, and every one counts it
        if self.scale:
            self.scale.update(not zero.overflow)
        norm = None if zero.overflow else self._engine.get_global_grad_norm()
        return torch.as_tensor(float("nan") if norm is None else float(norm))

    def zero_grad(self) -> None:
        """Drop the gradients added so far."""
        self._engine.zero_grad()

    def inference(self) -> AbstractContextManager[None]:
        """Return a context in which nothing changes: no optimizer that ZeRO can shard trains other
        weights."""
        return nullcontext()

    def local(self) -> dict[str, Tensor]:
        """Return this worker's part of every trainable weight: under ZeRO-3 a flat shard,
        else all of it."""
        return {
            name: (weight.ds_tensor if self.sharded else weight).detach()
            for name, weight in self._names.items()
        }

    def gather(self, part: Tensor, name: str) -> Tensor:
        """Return a whole weight from the shards of all workers; a collective under ZeRO-3."""
        if not self.sharded:
            return part
        weight = self._names[name]
        part = part.to(weight.device)
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        return torch.cat(parts)[: weight.ds_numel].view(weight.ds_shape)

    def shard(self, whole: Tensor, name: str) -> Tensor:
        """Return this worker's shard of a tensor shaped as the weight."""
        weight = self._names[name]
        if not self.sharded:
            return whole.to(weight.device)
        size = weight.ds_tensor.numel()
        padded = torch.zeros(size * dist.get_world_size(), dtype=whole.dtype)
        padded[: whole.numel()] = whole.flatten()
        return padded[dist.get_rank() * size :][:size].to(weight.ds_tensor.device)

    def optimizer_state(self) -> State:
        """Return the optimizer's whole state; a collective, every worker gets all."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = {int(state["step"]) for state in self._inner().state.values() if "step" in state}
        for name, weight in self._names.items():
            for key in self._moments:
                yield f"{name}|{key}", safe_get_full_optimizer_state(weight, key).detach()
            if steps:
                yield f"{name}|step", torch.tensor(float(max(steps)))
        yield from _state.group_tensors(self._inner())

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put such a state back, whatever engine and number of workers it came from."""
        from deepspeed.utils import safe_set_full_optimizer_state

        inner, zero = self._inner(), self._engine.optimizer
        flats = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )
        step = next(
            (
                value
                for name, value in tensors.items()
                if name.endswith("|step") and name[0] != "|"
            ),
            None,
        )
        for flat in (
            flats
        ):  # an optimizer fills its state at the first step; a resumed one must have it before
            inner.state[flat] = {key: torch.zeros_like(flat) for key in self._moments}
            if step is not None:
                inner.state[flat]["step"] = step.to(flat.device, copy=True)
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()
        for name, weight in self._names.items():
            for key in self._moments:
                safe_set_full_optimizer_state(
                    weight, tensors[f"{name}|{key}"].to(flats[0].device), key
                )
        for name, tensor in tensors.items():
            if name.startswith(_state.GROUP):
                _state.load_group(inner, *_state.decoded(name, tensor))

    def _inner(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


def import_deepspeed() -> Any:
    """Import DeepSpeed quietly; on a CPU without its compiled collectives,
    which take a minute to build and save little."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import logging

    import deepspeed

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
