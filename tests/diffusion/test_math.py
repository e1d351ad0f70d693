"""The mathematics by hand-computed values and against diffusers' schedulers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from raytrain.config import TrainConfig
from raytrain.diffusion import noise
from raytrain.diffusion.loss import mean_squared_error, min_snr_weight
from raytrain.diffusion.schedule import NoiseSchedule, add_noise, signal_to_noise, target
from raytrain.train.ema import Ema
from raytrain.train.optim import learning_rate

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
SCHEDULE = NoiseSchedule(SCHEDULER.alphas_cumprod, "epsilon", 0.18215)


def test_forward_process_and_targets_equal_diffusers() -> None:
    latents, sample = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([0, 500, 999])
    torch.testing.assert_close(add_noise(SCHEDULE, latents, sample, steps), SCHEDULER.add_noise(latents, sample, steps))
    velocity = SCHEDULER.get_velocity(latents, sample, steps)
    torch.testing.assert_close(target(SCHEDULE, latents, sample, steps, "v_prediction"), velocity)
    assert target(SCHEDULE, latents, sample, steps, "epsilon") is sample


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.5, 5.0, 20.0])
    assert min_snr_weight(snr, 5.0, "epsilon").tolist() == pytest.approx([1.0, 1.0, 0.25])
    assert min_snr_weight(snr, 5.0, "v_prediction").tolist() == pytest.approx([0.5 / 1.5, 5 / 6, 5 / 21])
    half = SCHEDULE.alphas_cumprod[300]
    assert float(signal_to_noise(SCHEDULE, torch.tensor([300]))) == pytest.approx(float(half / (1 - half)))


def test_mean_squared_error_is_per_sample() -> None:
    prediction = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert mean_squared_error(prediction, torch.ones(2, 1, 2, 2)).tolist() == [1.0, 4.0]


def test_draws_belong_to_the_sample() -> None:
    alone = noise.normal(7, "noise", ["b"], [3], (2, 4))
    together = noise.normal(7, "noise", ["a", "b"], [0, 3], (2, 4))
    assert torch.equal(alone[0], together[1])
    for other in (noise.normal(8, "noise", ["b"], [3], (2, 4)), noise.normal(7, "latent", ["b"], [3], (2, 4)),
                  noise.normal(7, "noise", ["b"], [4], (2, 4))):  # fmt: skip
        assert not torch.equal(alone, other)
    many = noise.normal(0, "noise", [str(i) for i in range(400)], [0] * 400, (64,))
    assert abs(float(many.mean())) < 0.02
    assert float(many.std()) == pytest.approx(1, abs=0.02)


def test_timesteps_stay_in_their_range() -> None:
    shares = np.linspace(0, 0.999999, 5000)
    drawn = noise.timesteps(shares, (0.2, 0.5), 1000)
    assert (int(drawn.min()), int(drawn.max())) == (200, 499)
    assert (int(noise.timesteps(shares, (0, 1), 1000).min()), int(noise.timesteps(shares, (0, 1), 1000).max())) == (
        0,
        999,
    )


def test_noise_offset_shifts_each_channel() -> None:
    shifted = noise.offset_noise(torch.zeros(1, 2, 3, 3), torch.tensor([[1.0, -2.0]]), 0.1)
    assert shifted[0, 0].unique().tolist() == pytest.approx([0.1])
    assert shifted[0, 1].unique().tolist() == pytest.approx([-0.2])


def test_latents_are_sampled_from_the_moments() -> None:
    moments = torch.cat([torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), math.log(9.0))], dim=1)
    latents = noise.sample_latents(moments, torch.ones(1, 4, 2, 2), SCHEDULE)
    assert latents.unique().tolist() == pytest.approx([(2 + 3) * 0.18215])


def test_learning_rate_schedules() -> None:
    def curve(schedule: str) -> list[float]:
        config = TrainConfig(learning_rate=1.0, schedule=schedule, warmup=2)  # type: ignore[arg-type]
        return [learning_rate(step, config, 10) for step in (0, 1, 2, 6, 9)]

    assert curve("constant") == [0.5, 1, 1, 1, 1]
    assert curve("linear") == pytest.approx([0.5, 1, 1, 0.5, 0.125])
    assert curve("cosine") == pytest.approx([0.5, 1, 1, 0.5, 0.5 * (1 + math.cos(math.pi * 7 / 8))])


def test_moving_average_warms_up() -> None:
    average = Ema({"w": torch.zeros(1)}, decay=0.9)
    average.update({"w": torch.ones(1)})
    assert float(average.shadow["w"]) == pytest.approx(1 - 1 / 10)
    for _ in range(500):
        average.update({"w": torch.ones(1)})
    assert float(average.shadow["w"]) == pytest.approx(1, abs=1e-4)
