"""Every sampler of `sample.scheduler` is diffusers' own, and draws images of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import diffusers
import numpy as np
import pytest
import torch

from raytrain import pretrained, sample
from raytrain.config import Config, SampleConfig
from raytrain.errors import UserError
from raytrain.families import sd3
from raytrain.sampling.prompts import Prompt

CPU = torch.device("cpu")
NAMED = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
NAMES = get_args(SampleConfig.model_fields["scheduler"].annotation)
ASKED = [Prompt("a red circle", size=(32, 32), steps=4, seed=3)]


def drawn(config: Config, named: str = "") -> np.ndarray:
    """Draw an image; by diffusers' class of that name where one is given."""
    model = sample.load_model(config, None, CPU)
    pipeline: Any = sample.build_pipeline(config, model, CPU)
    if named:
        kind = getattr(diffusers, named)
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    return np.asarray(sample.draw(config, model, pipeline, ASKED)[0])


def test_each_sampler_is_its_class_and_draws_its_own_image(
    run_config: Callable[..., Config],
) -> None:
    assert {*NAMED, "auto"} == set(NAMES)
    images = {name: drawn(run_config(sample={"scheduler": name})) for name in NAMES}
    assert np.array_equal(images["auto"], images["ddim"])
    auto = run_config(sample={"scheduler": "auto"})
    for name, kind in NAMED.items():
        assert np.array_equal(images[name], drawn(auto, kind)), name
    for one, other in itertools.combinations(NAMED, 2):
        assert not np.array_equal(images[one], images[other]), (one, other)


def test_a_sampler_of_another_kind_of_model_is_refused(run_config: Callable[..., Config]) -> None:
    config = run_config(sample={"scheduler": "ddim"})
    with pytest.raises(UserError, match=r"sample\.scheduler = 'ddim' does not fit.*auto, euler"):
        pretrained.scheduler_named(sd3.SCHEDULERS, "ddim", config.model)
