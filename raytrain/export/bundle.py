"""What a format is given: the weights, where they came from, and the settings that made them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors.torch import save_file
from torch import Tensor

from raytrain import storage
from raytrain.config import Config
from raytrain.families import Family

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Adapter:
    """A low-rank update of one module: W + (alpha / rank) up @ down (Hu et al. 2021, arXiv:2106.09685)."""

    down: Tensor
    """(rank, in) of a linear layer, (rank, in, k, k) of a convolution."""
    up: Tensor
    """(out, rank) or (out, rank, 1, 1)."""
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of `down`."""
        return int(self.down.shape[0])


@dataclass(frozen=True)
class Bundle:
    """One checkpoint's weights, ready to be written in any format."""

    name: str
    """Name of the run, the last part of its output folder."""
    config: Config
    """Settings the weights were trained with; `model` and `export` are today's."""
    family: Family
    weights: Mapping[str, Tensor]
    """What the method learned, on the CPU, in the precision of `config.export`."""
    step: int
    pictures: int | None
    """Training pictures, None where the dataset is gone."""
    header: Mapping[str, str]
    """Provenance, for every safetensors file's metadata."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the written weights."""
        return DTYPES[self.config.export.precision]

    def adapters(self) -> dict[str, Adapter]:
        """Return the LoRA by denoiser module path; empty where the weights are no LoRA."""
        if not self.weights or not all(name.endswith((DOWN, UP)) for name in self.weights):
            return {}
        alpha: float | None = getattr(self.config.method, "alpha", None)
        found = {}
        for name, down in self.weights.items():
            if name.endswith(DOWN):
                module = name.removesuffix(DOWN)
                rank = int(down.shape[0])
                found[module] = Adapter(down, self.weights[module + UP], rank if alpha is None else alpha)
        return found


def write_safetensors(path: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Write a safetensors file, whole or not at all, and return its path."""
    with storage.atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=dict(header))
    return path
