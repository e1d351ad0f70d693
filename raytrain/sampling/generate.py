"""Prompts -> images, batch by batch, through a diffusers pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from raytrain.sampling.prompts import Prompt

Inputs = Callable[[Sequence[Prompt]], dict[str, Any]]
"""What a pipeline is called with for some prompts, in addition to what every pipeline takes."""


def generate(
    pipeline: Any, prompts: Sequence[Prompt], batch: int, inputs: Inputs = lambda _: {}
) -> list[Image.Image]:
    """Return an image for each prompt, in order, drawn in `batches`.

    An image starts from its prompt's seed alone, and no global random state is touched.
    """
    images: dict[int, Image.Image] = {}
    for numbers in batches(prompts, batch):
        drawn = _draw(pipeline, [prompts[number] for number in numbers], inputs)
        images.update(zip(numbers, drawn, strict=True))
    return [images[number] for number in range(len(prompts))]


def batches(prompts: Sequence[Prompt], batch: int) -> list[list[int]]:
    """Return the numbers of prompts that are drawn together: at most `batch` of equal size,
    guidance and steps."""
    alike: dict[Any, list[int]] = {}
    for number, prompt in enumerate(prompts):
        alike.setdefault((prompt.size, prompt.guidance_scale, prompt.steps), []).append(number)
    return [
        numbers[start : start + batch]
        for numbers in alike.values()
        for start in range(0, len(numbers), batch)
    ]


def _draw(pipeline: Any, prompts: Sequence[Prompt], inputs: Inputs) -> list[Image.Image]:
    width, height = prompts[0].size
    drawn: list[Image.Image] = pipeline(
        prompt=[prompt.text for prompt in prompts],
        negative_prompt=[prompt.negative_prompt for prompt in prompts],
        num_inference_steps=prompts[0].steps,
        guidance_scale=prompts[0].guidance_scale,
        width=width,
        height=height,
        generator=[torch.Generator("cpu").manual_seed(prompt.seed) for prompt in prompts],
        **inputs(prompts),
    ).images
    return drawn
