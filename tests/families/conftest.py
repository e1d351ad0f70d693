"""Each family's tiny weights, written once a session, and its parts as they are loaded from
them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch

from raytrain import families
from raytrain.config import ModelConfig


@dataclass(frozen=True)
class Tiny:
    """A family with tiny weights."""

    family: Any
    model: ModelConfig

    @cached_property
    def pipe(self) -> Any:
        """The family's diffusers pipeline, loaded by diffusers alone."""
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(self.model.path)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @cached_property
    def parts(self) -> dict[str, Any]:
        """All parts by folder, loaded by the family, frozen."""
        found = {
            name: self.family.load(self.model, name, torch.float32) for name in self.family.PARTS
        }
        for part in found.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        return found

    def of(self, *roles: Any) -> dict[str, Any]:
        """Return the parts with these roles."""
        return {
            name: part for name, part in self.parts.items() if self.family.PARTS[name] in roles
        }

    @property
    def denoiser(self) -> Any:
        """The part that predicts."""
        return self.parts[families.denoiser(self.family)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Return a maker (kept for the session) of a family with tiny weights."""
    made: dict[str, Tiny] = {}

    def make(name: str) -> Tiny:
        if name not in made:
            family, folder = families.load(name), str(tmp_path_factory.mktemp(name))
            family.tiny(folder)
            made[name] = Tiny(family, ModelConfig(family=name, path=folder))
        return made[name]

    return make
