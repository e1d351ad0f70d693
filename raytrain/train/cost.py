"""What a training step costs, counted on the method's own model without weights:
nothing is loaded or computed.

The model is built on PyTorch's `meta` device, whose tensors have shapes alone, and runs a step of
one row there. Operations are counted as PyTorch's flop counter counts them; activations are the
tensors that autograd keeps for the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from raytrain import families, pretrained
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.data.columns import text
from raytrain.errors import UserError
from raytrain.families import Family
from raytrain.model import Model, build
from raytrain.train.sizes import Step

META = torch.device("meta")
QUANTIZED_BITS = {"int8": 8.1, "nf4": 4.13}
"""Bits of a quantized weight: its own and its share of the scales, one a row (int8)
or twice quantized a block of 64 (nf4)."""
NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Weights:
    """Numbers that a model holds."""

    all: int
    trainable: int
    frozen_bytes: float
    """Bytes of those that do not learn, quantized or not."""


def skeleton(config: Config) -> Model:
    """Return the model a config trains, without weights."""
    family = families.load(config.model.family)
    with META:
        return build(config, META, load=partial(structure, family, config))


def weights(config: Config, model: Model) -> Weights:
    """Count the weights of a skeleton."""
    learning = {id(weight) for weight in model.learning().values()}
    width = 4 if config.train.precision == "fp32" else 2
    linear = QUANTIZED_BITS.get(config.model.quantize, 8 * width) / 8
    frozen = 0.0
    for part in model.parts.values():
        quantized = part is model.denoiser
        for weight in part.parameters():
            if id(weight) not in learning:
                frozen += weight.numel() * (linear if quantized and weight.dim() == 2 else width)
    everything = sum(weight.numel() for weight in model.parameters())
    return Weights(everything, sum(weight.numel() for weight in model.learning().values()), frozen)


def step(config: Config, model: Model, width: int, height: int, *, flops: bool = True) -> Step:
    """Count a step of one row of a bucket, sides in pixels; without `flops`,
    which takes the longer part, they are 0."""
    rows = row(config, width, height)
    draws = model.draw(rows).to(META)
    counter = FlopCounterMode(display=False)
    kept = _Kept(model, counter, half=config.train.precision != "fp32")
    with countable_attention(), counter, kept.watch(config.train.gradient_checkpointing):
        losses = _losses(config, model, rows, draws)
        if flops:
            losses.sum().backward()  # type: ignore[no-untyped-call]
    return Step(counter.get_total_flops() + kept.again if flops else 0, kept.bytes)


def row(config: Config, width: int, height: int) -> Batch:
    """Return a batch of one row without contents, as training reads it from a bucket."""
    model, family = config.model, families.load(config.model.family)
    latent = family.latent(model)
    cells = (height // latent.factor, width // latent.factor)
    found = {
        "latents": torch.empty(1, latent.stored, *cells, dtype=torch.float16),
        "sizes": torch.empty(1, 6),
    }
    tokens = text.ids_on_meta(config, family, 1)
    with META:
        made = family.encode_text(text.on_meta(config, family, torch.float32), tokens, model)
    found |= {**made, **tokens, "control": torch.empty(1, 3, height, width, dtype=torch.uint8)}
    if config.data.masks.kind != "none" and config.data.masks.train:
        found["mask"] = torch.empty(1, *cells, dtype=torch.uint8)
    columns = Columns({name: column.detach().to(META) for name, column in found.items()})
    return Batch(["row"], [0], torch.ones(1, device=META), columns)


def _losses(config: Config, model: Model, rows: Batch, draws: Columns) -> Tensor:
    try:
        found: Tensor = model(rows, draws)
    except RuntimeError as error:  # of shapes: on `meta` nothing else can fail
        raise UserError(
            f"The parts of model {config.model.path!r} do not fit each other: "
            f"{str(error).splitlines()[0]} No step could be computed. Give a folder whose parts "
            "belong together."
        ) from error
    return found


class _Kept:
    """Adds up the memory that autograd keeps, weights left out, each once."""

    def __init__(self, model: Model, counter: FlopCounterMode, half: bool) -> None:
        self._model, self._counter, self._half = model, counter, half
        self.again = 0
        """Operations of recomputing blocks: each stops where the last tensor that its backward
        pass needs is there (`torch.utils.checkpoint`'s early stop)."""
        self._last = 0
        self._weights = {_place(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._found: dict[int, tuple[Any, int]] = {}
        self._in_norm = False
        self._most = 0  # of what one recomputed block keeps

    @property
    def bytes(self) -> int:
        """Bytes at the peak: all that is kept, and what the largest block keeps while it is
        recomputed."""
        return sum(size for _, size in self._found.values()) + self._most

    @contextmanager
    def watch(self, recompute: bool) -> Iterator[None]:
        """Watch what autograd keeps in the block; with `recompute` blocks keep their inputs
        alone."""
        hooks = []
        for module in self._model.modules():
            if isinstance(module, NORMS):
                hooks += [
                    module.register_forward_pre_hook(self._enter),
                    module.register_forward_hook(self._leave),
                ]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
                if recompute:
                    self._recompute()
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _recompute(self) -> None:
        for part in self._model.parts.values():
            enable = getattr(part, "enable_gradient_checkpointing", None)
            if enable is not None:
                enable(gradient_checkpointing_func=self._block)
                part.train()

    def _block(self, function: Callable[..., Any], *inputs: Any) -> Any:
        outside, self._found = self._found, {}
        before = self._last = self._counter.get_total_flops()
        result = function(*inputs)
        self.again += self._last - before
        self._most = max(self._most, sum(size for _, size in self._found.values()))
        self._found = outside
        for each in inputs:
            if isinstance(each, Tensor):
                self._pack(each)
        return result

    def _pack(self, tensor: Tensor) -> Tensor:
        storage, place = tensor.untyped_storage(), _place(tensor)
        self._last = self._counter.get_total_flops()
        if place not in self._weights:
            size = storage.nbytes()
            if self._half and tensor.is_floating_point() and not self._in_norm:
                size //= (
                    2  # autocast; norms are computed in float32 (torch.amp's list of operations)
                )
            self._found[place] = storage, max(size, self._found.get(place, (None, 0))[1])
        return tensor

    def _enter(self, *_: Any) -> None:
        self._in_norm = True

    def _leave(self, *_: Any) -> None:
        self._in_norm = False


class _Attention(torch.autograd.Function):
    """Attention as fused kernels do it: the matrix of scores is not kept but computed again
    (arXiv:2205.14135)."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query @ key.transpose(-2, -1) @ value
        context.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1]))
        return result

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = context.saved_tensors
        [gradient] = gradients
        scores = query @ key.transpose(-2, -1)
        other = gradient @ value.transpose(-2, -1)
        return other @ key, other.transpose(-2, -1) @ query, scores.transpose(-2, -1) @ gradient


@contextmanager
def countable_attention() -> Iterator[None]:
    """Let attention on `meta` be counted as the fused kernel that other devices have;
    on `meta` PyTorch has none."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, *_: Any, enable_gqa: bool = False, **__: Any
    ) -> Tensor:
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        result: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return result

    fused = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = fused


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def structure(family: Family, config: Config, part: str) -> Any:
    """Return a part as its config describes it, frozen: on `meta` without weights, else with
    random ones. A tokenizer is loaded."""
    if family.PARTS[part] == "tokenizer":
        return family.load(config.model, part, torch.float32)
    return pretrained.skeleton(config.model, part).eval().requires_grad_(False)
