"""How the denoiser's kernels are chosen: memory format, compiled blocks, TensorFloat-32.

Nothing here changes a weight's name. cuDNN's benchmark mode stays off: it times the kernels of
every new shape, and since another launch may choose another kernel, a resumed run would no longer
repeat the bits of an unbroken one.
"""

from __future__ import annotations

import torch
from torch import nn

from raytrain import optimizers
from raytrain.config import TrainConfig
from raytrain.errors import UserError
from raytrain.model import Model

SHAPES = 64
"""Compiled forms of a block kept at most: one for each width, bucket,
type and for training and evaluation."""


def prepare(model: Model, config: TrainConfig, device: torch.device) -> None:
    """Set up a model on its device, adapters included, in place;
    UserError where its blocks cannot be compiled."""
    if config.memory_format == "channels_last" or (
        config.memory_format == "auto" and device.type == "cuda"
    ):
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for weight in model.parameters():
            if weight.requires_grad and optimizers.facts(config.optimizer).contiguous:
                weight.data = weight.data.contiguous()
    if device.type == "cuda" and config.precision != "fp32":
        torch.set_float32_matmul_precision("high")
    if config.compile:
        _compile(model.denoiser)


def _compile(denoiser: nn.Module) -> None:
    """Compile the blocks that a denoiser repeats, each kind once (regional compilation)."""
    kinds = getattr(denoiser, "_repeated_blocks", None)
    if not kinds:
        raise UserError(
            "train.compile needs a denoiser that names its repeated blocks (`_repeated_blocks`), "
            f"and {type(denoiser).__name__} names none; nothing was trained. Set train.compile = "
            "false."
        )
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for block in denoiser.modules():
        if type(block).__name__ in kinds:
            block.compile()
