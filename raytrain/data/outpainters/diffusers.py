"""Surroundings painted by an inpainting pipeline of diffusers: any folder or hub id that
`AutoPipelineForInpainting` takes, Stable Diffusion and SDXL and those made for inpainting among
them."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import Any

from PIL import Image
from pydantic import Field

from raytrain.config.data import AugmentConfig
from raytrain.data.annotate import pretrained
from raytrain.data.outpainters import Outpainter
from raytrain.data.store.schema import content_key
from raytrain.table import Table

SETTING = "data.augment.outpainter_options.path"


class Options(Table):
    """Of the pipeline's call."""

    path: str
    """Folder or hub id."""
    prompt: str = ""
    negative_prompt: str = ""
    steps: int = Field(30, ge=1)
    guidance_scale: float = Field(7.5, ge=0)
    strength: float = Field(1.0, gt=0, le=1)
    """1 paints from noise alone; less keeps of the blurred reflection."""


def version(config: AugmentConfig) -> str:
    """Return the hash over all parts of the pipeline, the settings and diffusers' version."""
    options = Options(**config.outpainter_options)
    weights = pretrained.weights_hash(options.path, SETTING, deep=True)
    settings = options.model_dump(exclude={"path"})
    return content_key("diffusers", version_of("diffusers"), weights, settings)


def load(config: AugmentConfig) -> Outpainter:
    """Load the pipeline on this process's device."""
    return _Pipeline(Options(**config.outpainter_options))


class _Pipeline:
    def __init__(self, options: Options) -> None:
        from diffusers import AutoPipelineForInpainting

        self.options = options
        self.pipe: Any = pretrained.part(AutoPipelineForInpainting, options.path, SETTING)
        self.pipe.set_progress_bar_config(disable=True)
        self.pipe.to(pretrained.device())

    def paint(self, image: Image.Image, mask: Image.Image, seed: int) -> Image.Image:
        import torch

        own = self.options
        found: Image.Image = self.pipe(
            prompt=own.prompt,
            negative_prompt=own.negative_prompt,
            image=image,
            mask_image=mask,
            width=image.width,
            height=image.height,
            num_inference_steps=own.steps,
            guidance_scale=own.guidance_scale,
            strength=own.strength,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        return found
