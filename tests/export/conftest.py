"""Tiny models that learned loudly enough to change the image, and the images that they draw."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raytrain import families
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.export.bundle import Bundle
from raytrain.export.run import assemble
from raytrain.model import Model, build

EVERY_LAYER = ("to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out", "conv1",
               "conv2", "time_emb_proj", "conv_shortcut", "conv", "conv_in", "conv_out",
               "linear_1", "linear_2")  # fmt: skip
CPU = torch.device("cpu")


@dataclass
class Tuned:
    """A tiny model that learned."""

    config: Config
    model: Model
    weights: dict[str, Tensor]
    images: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def state(self) -> dict[str, Any]:
        return {"step": 7, "config": self.config.values(), "dataset": "f00d", "commit": "c0ffee"}

    def bundle(self, **tables: dict[str, Any]) -> Bundle:
        """Return what formats write; keyword arguments are changes of the config's tables."""
        tree = self.config.values()
        for table, keys in tables.items():
            tree[table] |= keys
        return assemble(parse(tree), self.weights, {**self.state, "config": tree})

    @property
    def live(self) -> np.ndarray:
        """Images of the live model."""
        if "live" not in self.images:
            self.images["live"] = draw(
                self.model.method.pipeline(self.config, self.model.parts, CPU)
            )
        return self.images["live"]

    @property
    def base(self) -> np.ndarray:
        """Images of the untouched base model, (2, H, W, 3) in [0, 1]."""
        if "base" not in self.images:
            self.images["base"] = draw(base_pipeline(self.config))
        return self.images["base"]

    def effective(self) -> dict[str, Tensor]:
        """Return the weights of all layers with an adapter as peft merges them, by public name."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        found: dict[str, Tensor] = {}
        for part, module in self.model.parts.items():
            merged: nn.Module = copy.deepcopy(module)
            for path, layer in merged.named_modules():
                if isinstance(layer, BaseTunerLayer):
                    layer.merge()
                    found[f"{part}.{path}.weight"] = layer.get_base_layer().weight.detach()
        return found


def draw(pipe: Any) -> np.ndarray:
    """Draw two images with fixed noise."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    prompts = ["a red circle", "a blue square"]
    images: np.ndarray = pipe(
        prompts,
        num_inference_steps=3,
        guidance_scale=3.0,
        generator=generator,
        height=64,
        width=64,
        output_type="np",
    ).images
    return images


def base_pipeline(config: Config) -> Any:
    """Return the pipeline of the untouched base model."""
    family = families.load(config.model.family)
    name = families.denoiser(family)
    parts = {name: family.load(config.model, name, torch.float32)}
    return family.pipeline(config.model, parts, "auto", CPU)


def settings(folder: Path, family: str, method: dict[str, Any]) -> Config:
    return parse({
        "output": str(folder / "my-run"),
        "model": {"family": family, "path": str(folder / "model")},
        "method": method,
        "data": {"captions": {"trigger": "sks"}},
        "export": {"precision": "fp32"},
        "sample": {"scheduler": "auto"},
    })  # fmt: skip


def loud(state: dict[str, Tensor], loudness: float) -> dict[str, Tensor]:
    """Return learned tensors that are no longer zero where they began so,
    and norms that are no longer the base's."""
    generator = torch.Generator().manual_seed(1)
    changed = {}
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if not tensor.any():
            changed[name] = loudness * noise
        else:
            changed[name] = (
                tensor * (1 + 0.2 * noise) if "magnitude" in name else tensor + 0.02 * noise
            )
    return changed


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: with models this small, threads that wait for each other cost more
    than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a maker (kept for the session) of a folder with a family's tiny model."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            families.load(family).tiny(str(made[family] / "model"))
        return made[family]

    return make


@pytest.fixture(scope="session")
def tune(folder: Callable[[str], Path]) -> Callable[..., Tuned]:
    """Return a maker (kept for the session) of a tuned tiny model by family and the keys of its
    method, a LoRA by default."""
    made: dict[str, Tuned] = {}

    def make(family: str, loudness: float = 2.0, **method: Any) -> Tuned:
        key = f"{family} {loudness} {method}"
        if key not in made:
            table = {"name": "lora", "rank": 4, "alpha": 2.0} if "name" not in method else {}
            config = settings(folder(family), family, {**table, **method})
            model = build(config, CPU)
            torch.manual_seed(0)
            model.load(loud(model.state(), loudness))
            made[key] = Tuned(
                config, model, {name: tensor.clone() for name, tensor in model.state().items()}
            )
        return made[key]

    return make
