"""What a format is given: the weights, where they came from, and the settings that made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raytrain import families, pretrained, storage
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
    facts: Mapping[str, Any]
    """What the method says of itself: for a LoRA, rank and alpha."""
    step: int
    pictures: int | None
    """Training pictures, None where the dataset is gone."""
    header: Mapping[str, str]
    """Provenance, for every safetensors file's metadata."""

    @property
    def part(self) -> str:
        """The denoiser's folder."""
        return families.denoiser(self.family)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the written weights."""
        return DTYPES[self.config.export.precision]

    def skeleton(self) -> nn.Module:
        """Return the base denoiser's structure, without weights."""
        import diffusers

        model = self.config.model
        settings = pretrained.read_config(pretrained.folder(model), self.part, "config.json")
        with torch.device("meta"):
            denoiser: nn.Module = getattr(diffusers, settings["_class_name"]).from_config(settings)
        return denoiser

    def adapters(self) -> dict[str, Adapter]:
        """Return the LoRA by denoiser module path; empty where the weights are no LoRA."""
        if not is_lora(self.weights):
            return {}
        alpha = self.facts.get("alpha")
        found = {}
        for name, down in self.weights.items():
            if name.endswith(DOWN):
                module = name.removesuffix(DOWN)
                rank = int(down.shape[0])
                found[module] = Adapter(down, self.weights[module + UP], float(rank if alpha is None else alpha))
        return found


def is_lora(names: Iterable[str]) -> bool:
    """Tell whether these are the names of a LoRA's weights and nothing else."""
    known = list(names)
    return bool(known) and all(name.endswith((DOWN, UP)) for name in known)


def write_safetensors(path: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Write a safetensors file, whole or not at all, and return its path."""
    with storage.atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=dict(header))
    return path
