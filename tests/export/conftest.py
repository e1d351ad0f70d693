"""Tiny models with a LoRA loud enough to change the picture, and the pictures that the live model draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from raytrain import families, methods
from raytrain.config import Config
from raytrain.configfile import parse

EVERY_LAYER = ("to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "proj_in", "proj_out", "conv1", "conv2",
               "time_emb_proj", "conv_shortcut", "conv", "conv_in", "conv_out", "linear_1", "linear_2")  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """A tiny model with live LoRA weights."""

    config: Config
    denoiser: nn.Module
    weights: dict[str, Tensor]
    base: np.ndarray
    """Pictures of the untouched base model, (2, H, W, 3) in [0, 1]."""
    live: np.ndarray
    """Pictures of the live tuned denoiser."""

    @property
    def state(self) -> dict[str, Any]:
        return {"step": 7, "config": self.config.values(), "dataset": "f00d", "commit": "c0ffee"}


def draw(pipe: Any) -> np.ndarray:
    """Draw two pictures with fixed noise."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    prompts = ["a red circle", "a blue square"]
    pictures: np.ndarray = pipe(
        prompts, num_inference_steps=4, guidance_scale=3.0, generator=generator, height=64, width=64, output_type="np"
    ).images
    return pictures


def base_pipeline(config: Config) -> Any:
    """Return the pipeline of the untouched base model."""
    family = families.load(config.model.family)
    denoiser = family.load_denoiser(config.model, torch.float32)
    return family.pipeline(config.model, denoiser, "ddim", torch.device("cpu"))


def settings(folder: Path, family: str, method: dict[str, Any]) -> Config:
    return parse({
        "output": str(folder / "my-run"),
        "model": {"family": family, "path": str(folder / "model")},
        "method": method,
        "data": {"captions": {"trigger": "sks"}},
        "export": {"precision": "fp32"},
    })  # fmt: skip


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute on one thread: with models this small, threads that wait for each other cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tune(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, tuple[str, ...]], Tuned]:
    """Return a maker (kept for the session) of a tuned tiny model by family and LoRA targets."""
    made: dict[tuple[str, tuple[str, ...]], Tuned] = {}

    def make(name: str, targets: tuple[str, ...] = ()) -> Tuned:
        if (name, targets) not in made:
            folder = tmp_path_factory.mktemp(name)
            family = families.load(name)
            family.tiny(str(folder / "model"))
            config = settings(folder, name, {"name": "lora", "rank": 4, "alpha": 2.0, "targets": list(targets)})
            base = draw(base_pipeline(config))
            denoiser = family.load_denoiser(config.model, torch.float32)
            method = methods.load(config.method)
            method.prepare(denoiser, family, config.method, 0)
            loudness = 0.3 if targets else 2.0
            generator = torch.Generator().manual_seed(1)
            loud = {
                key: value + torch.randn(value.shape, generator=generator) * (loudness if "lora_B" in key else 0)
                for key, value in method.state(denoiser).items()
            }
            method.load_state(denoiser, loud)
            live = draw(family.pipeline(config.model, denoiser, "ddim", torch.device("cpu")))
            made[name, targets] = Tuned(config, denoiser, loud, base, live)
        return made[name, targets]

    return make
