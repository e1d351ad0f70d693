"""What a format is given: what was learned, where it came from, and the settings that made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raytrain import families, pretrained, storage
from raytrain.artifacts import Artifact
from raytrain.config import Config
from raytrain.families import Family
from raytrain.model import Model, build

Kind = TypeVar("Kind", bound=Artifact)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Written:
    """A file or folder of an export."""

    path: str
    how_to_load: tuple[str, ...]
    """Lines for the user."""


@dataclass(frozen=True)
class Bundle:
    """What one checkpoint holds of one format's types."""

    name: str
    """Name of the run, the last part of its output folder."""
    config: Config
    """Settings the weights were trained with; `model` and `export` are today's."""
    family: Family
    artifacts: Sequence[Artifact]
    """float32, on the CPU."""
    step: int
    images: int | None
    """Training images, None where the dataset is gone."""
    header: Mapping[str, str]
    """Provenance, for every safetensors file's metadata."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the written weights."""
        return DTYPES[self.config.export.precision]

    @property
    def part(self) -> str:
        """The denoiser's folder."""
        return families.denoiser(self.family)

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the artifacts of one type."""
        return [artifact for artifact in self.artifacts if isinstance(artifact, kind)]

    def structure(self) -> Model:
        """Return the model that was trained, without weights."""

        def load(part: str) -> Any:
            tokenizer = self.family.PARTS[part] == "tokenizer"
            return (
                self.family.load(self.config.model, part, torch.float32)
                if tokenizer
                else self.skeleton(part)
            )

        with torch.device("meta"):
            return build(self.config, torch.device("meta"), load=load)

    def skeleton(self, part: str) -> nn.Module:
        """Return the structure of a part of the base, without weights."""
        with torch.device("meta"):
            return pretrained.skeleton(self.config.model, part).requires_grad_(False)


def write_safetensors(path: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Write a safetensors file, whole or not at all, and return its path."""
    with storage.atomic(path) as temporary:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(whole, temporary, metadata=dict(header))
    return path
