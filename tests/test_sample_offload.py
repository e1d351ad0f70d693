"""Text encoders and VAE that come to the device only while they work draw the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from raytrain import families, plugins, sample
from raytrain.config import Config
from raytrain.sampling.prompts import Prompt

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("family", "max_tokens"),
    [
        (name, tokens)
        for name in plugins.names("families")
        for tokens in (75, 150)
        if tokens in families.load(name).CAPTION_TOKENS
    ],
)
def test_offloaded_parts_draw_the_same(
    run_config: Callable[..., Config], family: str, max_tokens: int
) -> None:
    config = run_config(family, sample={"steps": 2})
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"max_tokens": max_tokens})}
    )

    asked = [Prompt(text, size=(64, 64), steps=2) for text in ("a red circle", "")]
    model = sample.load_model(config, None, CPU)
    pipeline = sample.build_pipeline(config, model, CPU)

    def draw() -> list[np.ndarray]:
        return [np.asarray(image) for image in sample.draw(config, model, pipeline, asked)]

    expected = draw()
    sample.offload(pipeline, model, CPU)
    for _ in range(2):
        # Nothing of them is on the device between their turns: a weight without data is on `meta`.
        parts = [
            part
            for name, part in pipeline.components.items()
            if name == "vae" or name.startswith("text_encoder")
        ]
        assert {weight.device.type for part in parts for weight in part.parameters()} == {"meta"}
        assert {weight.device.type for weight in model.denoiser.parameters()} == {"cpu"}
        assert all(np.array_equal(a, b) for a, b in zip(draw(), expected, strict=True))


def test_offload_is_for_gpus(run_config: Callable[..., Config]) -> None:
    config = run_config(sample={"offload": True})
    pipeline = sample.build_pipeline(config, sample.load_model(config, None, CPU), CPU)
    assert {weight.device.type for weight in pipeline.vae.parameters()} == {"cpu"}
