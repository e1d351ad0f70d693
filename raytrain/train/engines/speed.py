"""How the denoiser's kernels are chosen: precision, memory format, compiled blocks,
TensorFloat-32, the same bits every time.

Nothing here changes a weight's name. cuDNN's benchmark mode stays off: it times the kernels of
every new shape, and since another launch may choose another kernel, a resumed run would no longer
repeat the bits of an unbroken one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from raytrain import optimizers
from raytrain.config import TrainConfig
from raytrain.errors import UserError
from raytrain.model import Model

SHAPES = 64
"""Compiled forms of a block kept at most: one for each width, bucket,
type and for training and evaluation."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    if config.precision != "fp32":
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        for layer in model.modules():
            # Autocast makes every product's input half; peft would make it float32 before.
            if hasattr(layer, "cast_input_dtype_enabled"):
                layer.cast_input_dtype_enabled = False  # type: ignore[assignment]
    if config.compile:
        _compile(model.denoiser)


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """Compute in half precision where the config sets it."""
    return torch.autocast(
        device.type, PRECISIONS[config.precision], enabled=config.precision != "fp32"
    )


@contextmanager
def deterministic(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Let a GPU take kernels that give the same bits every time, as `train.deterministic` asks;
    those of a CPU do so anyway.

    Raises UserError where an operation of the model has no such kernel.
    """
    if device.type != "cuda" or not config.deterministic:
        yield
        return
    torch.backends.cudnn.deterministic = True
    # Memory that nothing has written is not read; filling it takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise UserError(
            f"train.deterministic = true, but {str(error).splitlines()[0]} Nothing was trained in "
            "this step. Set train.deterministic = false; a resumed run may then differ from an "
            "unbroken one in its last digits."
        ) from error
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False


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
