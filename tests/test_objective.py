"""What `[objective]` asks for is in what a run draws and adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raytrain.config import Config
from raytrain.data.loading.loader import Loader
from raytrain.data.loading.read import Dataset
from raytrain.model import build
from raytrain.train.order import batch_sampler_of

Seen = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def noised(run_config: Callable[..., Config]) -> Callable[..., list[Seen]]:
    """Return a maker of what a run makes of its first steps under an objective: times, and what is
    added to each row's latents."""

    def make(**objective: Any) -> list[Seen]:
        config = run_config(train={"global_batch": 4, "steps": 8}, objective=objective)
        dataset = Dataset.of(config)
        loader = Loader(dataset, batch_sampler_of(config, dataset.counts()))
        model = build(config, torch.device("cpu"))
        found = []
        for number in range(8):
            batch = loader.step(number).batch
            seen = model.objective.noised(batch, model.draw(batch))
            found.append((seen.time, seen.target))  # an epsilon model's target is the noise
        return found

    return make


def test_timesteps_of_a_run_stay_in_their_range(noised: Callable[..., list[Seen]]) -> None:
    whole = torch.cat([time for time, _ in noised()])
    part = torch.cat([time for time, _ in noised(timestep_range=[0.2, 0.5])])
    assert 200 <= int(part.min()) < int(part.max()) < 500
    assert ((whole < 200) | (whole >= 500)).sum() > 8
    moved = 200 + 0.3 * whole.double()
    torch.testing.assert_close(part.double(), moved, atol=1.3, rtol=0)  # whole steps of each


def test_the_noise_offset_of_a_run_is_one_normal_number_a_channel(
    noised: Callable[..., list[Seen]],
) -> None:
    drawn = zip(noised(), noised(noise_offset=0.5), strict=True)
    added = [offset - plain for (_, plain), (_, offset) in drawn]
    for one in added:
        same = one.mean(dim=(2, 3), keepdim=True).expand_as(one)
        torch.testing.assert_close(one, same, atol=1e-5, rtol=0)
    each = torch.cat([one.mean(dim=(2, 3)) for one in added])
    assert 0.35 < float(each.std()) < 0.65, "0.5 times a standard normal"
    assert len(each.flatten().unique()) == each.numel(), "its own for each row and channel"
