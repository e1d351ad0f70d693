"""Engines: how gradients of several micro-batches and workers become one optimizer step.

Few verbs, one shape. `plain` is PyTorch alone on one worker; `ddp` is the same on several, each
holding everything (Li et al. 2020, arXiv:2006.15704); `zero1` to `zero3` are DeepSpeed on any
number (`raytrain.train.engines.zero`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytrain import optimizers
from raytrain.config import TrainConfig
from raytrain.model import Model
from raytrain.optimizers import Group, _state
from raytrain.train.engines.loss_scale import LossScale

State = Iterator[tuple[str, Tensor]]
"""Tensors by name, one at a time, so that a worker that does not need them need not hold them
all."""
NO_GROUPS: Mapping[str, Group] = {}
TRAINING = "training"
"""State of a weight: what training continues from where a checkpoint's weights are those for
inference."""


class Engine(Protocol):
    """What a step, a checkpoint and a moving average need of an engine.

    Names are the weights' public ones.
    """

    model: nn.Module
    """The model as the loss must call it."""
    sharded: bool
    """Every worker holds only a shard of each weight, so all must take part in whatever the
    model computes."""
    scale: LossScale | None
    """Of fp16, else None."""
    waits: bool
    """Whether a step waits for its device anyway, so that its numbers may as well be read at
    once."""

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the last of a step also averages them over workers."""

    def step(self, learning_rate: float, loss: Tensor, number: int) -> Tensor:
        """Clip, update the weights, zero the gradients; returns the gradient's norm before
        clipping.

        `number` counts steps from 0; a group of weights has the learning rate times its own
        factor. Where it or the loss is not finite, no weight is changed; without `waits` in no
        later step either.
        """

    def zero_grad(self) -> None:
        """Drop the gradients added so far, to restart the step."""

    def inference(self) -> AbstractContextManager[None]:
        """Have the weights for inference in the model meanwhile,
        where the optimizer trains others; may be nested."""

    def local(self) -> dict[str, Tensor]:
        """Return this worker's part of every trainable weight: all of it, or a flat shard."""

    def gather(self, part: Tensor, name: str) -> Tensor:
        """Return a whole weight from the shards of all workers (`local`, or tensors of that
        shape); a collective."""

    def shard(self, whole: Tensor, name: str) -> Tensor:
        """Return this worker's shard of a tensor shaped as the weight."""

    def optimizer_state(self) -> State:
        """Return the optimizer's whole state as tensors by name (`raytrain.optimizers._state`);
        a collective."""

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put such a state back, whatever engine and number of workers it came from."""


class PlainEngine:
    """One worker, PyTorch's own autograd and optimizer."""

    sharded = False

    def __init__(
        self, model: Model, config: TrainConfig, groups: Mapping[str, Group] = NO_GROUPS
    ) -> None:
        self.model: nn.Module = model
        self.max_grad_norm = config.max_grad_norm or math.inf
        self.scale = LossScale() if config.precision == "fp16" else None
        self._names = model.learning()
        self._groups = optimizers.grouped(self._names, groups)
        self._optimizer = optimizers.build(self._names, config, groups)
        self._averages = optimizers.facts(config.optimizer).averages
        if self._averages:
            self._optimizer.train()  # type: ignore[attr-defined]
        self._training: dict[str, Tensor] | None = None
        device = next(iter(self._names.values())).device
        self.waits = (
            device.type == "cpu"
            or self.scale is not None
            or not self._optimizer.defaults.get("fused")
        )
        self._broken = torch.zeros((), device=device)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients."""
        (loss * self.scale.value if self.scale else loss).backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float, loss: Tensor, number: int) -> Tensor:
        """Clip, update the weights where all is finite, zero the gradients;
        returns their norm before clipping."""
        for (group, weights), own in zip(self._groups, self._optimizer.param_groups, strict=True):
            own["lr"] = learning_rate * group.rate
            if group.freeze_after is not None and number >= group.freeze_after:
                for weight in weights.values():
                    weight.grad = None  # which every optimizer passes over
        if self.scale:
            gradients = [weight.grad for weight in self._names.values() if weight.grad is not None]
            torch._foreach_mul_(gradients, 1 / self.scale.value)
        norm = nn.utils.clip_grad_norm_(self._names.values(), self.max_grad_norm, foreach=True)
        finite = norm.isfinite() & loss.isfinite()
        # the fused kernel itself leaves the weights alone where it gets something infinite
        if not self.waits:
            self._broken = self._broken.maximum((~finite).float())
            self._optimizer.found_inf = self._broken  # type: ignore[attr-defined]
            self._optimizer.step()
        elif finite:
            self._optimizer.step()
        if self.scale:
            self.scale.update(bool(finite))
        self.zero_grad()
        return norm

    def zero_grad(self) -> None:
        """Drop the gradients added so far."""
        self._optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Have the weights for inference in the model meanwhile,
        where the optimizer trains others."""
        if not self._averages or self._training is not None:
            yield
            return
        # There and back rounds: what is kept makes a run's bits the same however often it is
        # looked at.
        self._training = {name: weight.detach().clone() for name, weight in self._names.items()}
        self._optimizer.eval()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            self._train_on(self._training)
            self._training = None

    @torch.no_grad()
    def _train_on(self, weights: Mapping[str, Tensor]) -> None:
        self._optimizer.train()  # type: ignore[attr-defined]
        for name, weight in weights.items():
            self._names[name].copy_(weight)

    def local(self) -> dict[str, Tensor]:
        """Return every trainable weight."""
        return {name: weight.detach() for name, weight in self._names.items()}

    def gather(self, part: Tensor, name: str) -> Tensor:
        """Return the tensor itself."""
        return part

    def shard(self, whole: Tensor, name: str) -> Tensor:
        """Return the tensor itself, on the weight's device."""
        return whole.to(self._names[name].device)

    def optimizer_state(self) -> State:
        """Return the optimizer's state, and the weights it trains where others are in the
        model."""
        yield from _state.tensors(self._optimizer, self._names)
        for name, weight in (self._training or {}).items():
            yield f"{name}|{TRAINING}", weight

    def load_optimizer_state(self, tensors: dict[str, Tensor]) -> None:
        """Put such a state back."""
        ending = f"|{TRAINING}"
        _state.load(
            self._optimizer,
            self._names,
            {name: v for name, v in tensors.items() if not name.endswith(ending)},
        )
        if self._averages:
            self._train_on(
                {
                    name.removesuffix(ending): v
                    for name, v in tensors.items()
                    if name.endswith(ending)
                }
            )


class ParallelEngine(PlainEngine):
    """The same on several workers, which average their gradients while the last backward pass of a
    step runs."""

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        accumulation: int,
        groups: Mapping[str, Group] = NO_GROUPS,
    ) -> None:
        super().__init__(model, config, groups)
        self.model = DistributedDataParallel(
            model, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        self._accumulation = accumulation
        self._expect(0)

    def backward(self, loss: Tensor) -> None:
        """Add a micro-batch's gradients; the last of a step also averages them over workers."""
        super().backward(loss)
        self._expect(self._added + 1)

    def zero_grad(self) -> None:
        """Drop the gradients added so far."""
        super().zero_grad()
        self._expect(0)

    def _expect(self, added: int) -> None:
        """Let only the last micro-batch of a step talk to the other workers;
        DDP must know before its forward pass."""
        self._added = added
        self.model.require_backward_grad_sync = added == self._accumulation - 1  # type: ignore[assignment]


def build(
    name: str,
    offload: str,
    model: Model,
    config: TrainConfig,
    slots: int,
    micro_batch: int,
    groups: Mapping[str, Group] = NO_GROUPS,
) -> Engine:
    """Return the engine for `slots` images per worker and step, `micro_batch` of them at a time.

    `groups` overrides the config for weights whose names start with a prefix.
    """
    if name == "plain":
        return PlainEngine(model, config, groups)
    if not dist.is_initialized():  # one process without a Ray session
        os.environ.update(
            RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"
        )  # what a launcher sets and DeepSpeed asks for
        backend = "nccl" if config.gpus_per_worker else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    accumulation = -(-slots // micro_batch)
    if name == "ddp":
        return ParallelEngine(model, config, accumulation, groups)
    from raytrain.train.engines.zero import ZeroEngine

    return ZeroEngine(
        model, config, int(name.removeprefix("zero")), offload, micro_batch, accumulation, groups
    )
