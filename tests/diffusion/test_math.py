"""The mathematics by hand-computed values and against diffusers' schedulers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from raytrain import rng
from raytrain.config import TrainConfig
from raytrain.diffusion import noise
from raytrain.diffusion.loss import mean_squared_error, min_snr_weight
from raytrain.diffusion.process import Ddpm, Flow
from raytrain.train.ema import Ema
from raytrain.train.lr_schedule import learning_rate

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
PROCESS = Ddpm(SCHEDULER.alphas_cumprod, "epsilon")


def test_forward_process_and_targets_equal_diffusers() -> None:
    latents, sample = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    steps = torch.tensor([0, 500, 999])
    noisy = PROCESS.noised(latents, sample, steps)
    torch.testing.assert_close(noisy, SCHEDULER.add_noise(latents, sample, steps))
    velocity = SCHEDULER.get_velocity(latents, sample, steps)
    torch.testing.assert_close(
        replace(PROCESS, prediction="v_prediction").target(latents, sample, steps), velocity
    )
    assert PROCESS.target(latents, sample, steps) is sample


def test_flow_matching_equals_diffusers() -> None:
    latents, sample = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    shares = torch.tensor([0.0, 0.5, 0.9995], dtype=torch.float64)
    time = Flow(shift=3.0).time(shares, (4, 8, 8))
    picked = [999, 499, 0]  # diffusers' grid descends
    torch.testing.assert_close(time, scheduler.sigmas[picked])
    noisy = Flow(shift=3.0).noised(latents, sample, time)
    torch.testing.assert_close(
        noisy, scheduler.scale_noise(latents, scheduler.timesteps[picked], sample)
    )
    assert torch.equal(Flow().target(latents, sample, time), sample - latents)


@pytest.mark.parametrize(
    "process", [PROCESS, replace(PROCESS, prediction="v_prediction"), Flow(), Flow(shift=3.0)]
)
def test_what_was_predicted_gives_the_clean_latents_back(process: Any) -> None:
    clean, sample = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8)
    time = process.time(torch.tensor([0.0, 0.3, 0.6, 0.95], dtype=torch.float64), clean.shape[1:])
    found = process.clean(
        process.noised(clean, sample, time), process.target(clean, sample, time), time
    )
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)
    assert bool((process.snr(time).diff() < 0).all())


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.5, 5.0, 20.0])
    assert min_snr_weight(snr, 5.0, "epsilon").tolist() == pytest.approx([1.0, 1.0, 0.25])
    assert min_snr_weight(snr, 5.0, "v_prediction").tolist() == pytest.approx(
        [0.5 / 1.5, 5 / 6, 5 / 21]
    )
    assert min_snr_weight(snr, 5.0, "flow").tolist() == pytest.approx(
        [min(each, 5) / (math.sqrt(each) + 1) ** 2 for each in (0.5, 5, 20)]
    )
    half = PROCESS.alphas_cumprod[300]
    assert float(PROCESS.snr(torch.tensor([300]))) == pytest.approx(float(half / (1 - half)))


def test_mean_squared_error_is_per_sample() -> None:
    prediction = torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0)])
    assert mean_squared_error(prediction, torch.ones(2, 1, 2, 2)).tolist() == [1.0, 4.0]


def test_draws_belong_to_the_sample() -> None:
    alone = rng.normal(7, "noise", ["b"], [3], (2, 4))
    together = rng.normal(7, "noise", ["a", "b"], [0, 3], (2, 4))
    assert torch.equal(alone[0], together[1])
    for other in (
        rng.normal(8, "noise", ["b"], [3], (2, 4)),
        rng.normal(7, "latent", ["b"], [3], (2, 4)),
        rng.normal(7, "noise", ["b"], [4], (2, 4)),
    ):
        assert not torch.equal(alone, other)
    many = rng.normal(0, "noise", [str(i) for i in range(400)], [0] * 400, (64,))
    assert abs(float(many.mean())) < 0.02
    assert float(many.std()) == pytest.approx(1, abs=0.02)


def test_timesteps_stay_in_their_range() -> None:
    shares = torch.cat(
        [torch.linspace(0, 0.999999, 5000, dtype=torch.float64), torch.tensor([1 - 2.0**-53])]
    )
    for low, high in ((0.2, 0.5), (0.0, 1.0), (0.5, 1.0)):
        drawn = PROCESS.time(noise.interval(shares, low, high), (4, 8, 8))
        assert (int(drawn.min()), int(drawn[:-1].max())) == (1000 * low, 1000 * high - 1)
        assert int(drawn[-1]) <= min(1000 * high, 999)


def test_noise_offset_shifts_each_channel() -> None:
    shifted = noise.offset_noise(torch.zeros(1, 2, 3, 3), torch.tensor([[1.0, -2.0]]), 0.1)
    assert shifted[0, 0].unique().tolist() == pytest.approx([0.1])
    assert shifted[0, 1].unique().tolist() == pytest.approx([-0.2])


def test_latents_are_sampled_from_the_posterior() -> None:
    moments = torch.cat(
        [torch.full((1, 4, 2, 2), 2.0), torch.full((1, 4, 2, 2), math.log(9.0))], dim=1
    )
    latents = noise.sample_posterior(moments, torch.ones(1, 4, 2, 2))
    assert latents.unique().tolist() == pytest.approx([2 + 3])


def test_learning_rate_schedules() -> None:
    def curve(schedule: str, warmup: int | str = 2, **options: float) -> list[float]:
        settings: dict[str, Any] = {
            "learning_rate": 1.0,
            "lr_schedule": schedule,
            "warmup": warmup,
            **options,
        }
        return [learning_rate(step, TrainConfig(**settings), 10) for step in (0, 1, 2, 6, 9)]

    assert curve("constant") == [0.5, 1, 1, 1, 1]
    assert curve("linear") == pytest.approx([0.5, 1, 1, 0.5, 0.125])
    assert curve("cosine") == pytest.approx(
        [0.5, 1, 1, 0.5, 0.5 * (1 + math.cos(math.pi * 7 / 8))]
    )
    assert curve("cosine", warmup="20 %") == curve("cosine")
    assert curve("polynomial") == pytest.approx([0.5, 1, 1, 0.5**2, 0.125**2])
    assert curve("polynomial", lr_schedule_power=3.0) == pytest.approx(
        [0.5, 1, 1, 0.5**3, 0.125**3]
    )
    last = 0.5 * (1 + math.cos(math.pi * 3 / 4))
    assert curve("cosine_restarts") == pytest.approx([0.5, 1, 1, 1, last])
    assert curve("cosine_restarts", lr_schedule_cycles=4)[2:4] == [1, 1]


def test_moving_average_warms_up() -> None:
    average = Ema({"w": torch.zeros(1)}, decay=0.9)
    average.update({"w": torch.ones(1)})
    assert float(average.shadow["w"]) == pytest.approx(1 - 1 / 10)
    for _ in range(500):
        average.update({"w": torch.ones(1)})
    assert float(average.shadow["w"]) == pytest.approx(1, abs=1e-4)
