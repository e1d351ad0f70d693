"""A step of ours equals a plain diffusers + peft step on the same weights, data, noise and timesteps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from raytrain import families, methods
from raytrain.config import Config
from raytrain.data.loader import Batch, Loader
from raytrain.data.read import Dataset
from raytrain.objective import Draws, Objective
from raytrain.train.run import ledger_of

TOLERANCE = 1e-5


def ours(config: Config) -> tuple[Batch, Draws, torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    family, method = families.load(config.model.family), methods.load(config.method)
    denoiser = family.load_denoiser(config.model, torch.float32)
    method.prepare(denoiser, family, config.method, config.seed)
    start = {name: value.clone() for name, value in method.state(denoiser).items()}
    # B starts at zero, which would hide errors in A's gradient
    generator = torch.Generator().manual_seed(9)
    start = {n: torch.randn(v.shape, generator=generator) * 0.1 if "lora_B" in n else v for n, v in start.items()}
    method.load_state(denoiser, start)
    dataset = Dataset(config.dataset)
    objective = Objective(family, family.load_schedule(config.model), config.objective, config.seed)
    batch = Loader(dataset, ledger_of(config, dataset.counts())).step(0).batch
    draws = objective.draw(batch)
    loss = objective.losses(denoiser, batch, draws).mean()
    loss.backward()
    own = {n: p.grad for n, p in denoiser.named_parameters() if p.requires_grad}
    return batch, draws, loss.detach(), {method.public_name(n): g for n, g in own.items() if g is not None}, start


def reference(
    config: Config, batch: Batch, draws: Draws, start: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same step from the library's public parts alone."""
    kind = StableDiffusionXLPipeline if config.model.family == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(config.model.path)
    unet, scheduler = pipe.unet, DDPMScheduler.from_config(pipe.scheduler.config)
    if config.objective.prediction != "auto":
        scheduler.register_to_config(prediction_type=config.objective.prediction)
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    for name, weight in unet.named_parameters():
        if "lora" in name:
            weight.data.copy_(start[name.replace(".default.", ".")])
    # a latent sampled from the stored moments with the same draw
    distribution = DiagonalGaussianDistribution(batch.moments.float())
    latents = (distribution.mean + distribution.std * draws.latent) * pipe.vae.config.scaling_factor
    noisy = scheduler.add_noise(latents, draws.noise, draws.timesteps)
    added = {}
    if config.model.family == "sdxl":
        added = {
            "added_cond_kwargs": {"text_embeds": batch.columns["pooled"].float(), "time_ids": batch.columns["sizes"]}
        }
    predicted = unet(noisy, draws.timesteps, encoder_hidden_states=batch.columns["text"].float(), **added).sample
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, draws.noise, draws.timesteps)
    else:
        target = draws.noise
    per_sample = torch.nn.functional.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3))
    gamma = config.objective.min_snr_gamma
    if gamma is not None:
        alpha_bar = scheduler.alphas_cumprod[draws.timesteps]
        snr = alpha_bar / (1 - alpha_bar)
        weight = torch.stack([snr, torch.full_like(snr, gamma)], dim=1).min(dim=1)[0]
        per_sample = per_sample * weight / (snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr)
    loss = per_sample.mean()
    loss.backward()
    assert get_peft_model_state_dict(unet).keys() == start.keys()
    gradients = {n.replace(".default.", "."): p.grad for n, p in unet.named_parameters() if p.requires_grad}
    return loss.detach(), gradients


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize(
    "objective",
    [{}, {"prediction": "v_prediction", "min_snr_gamma": 5.0}, {"min_snr_gamma": 5.0, "timestep_range": [0.2, 0.8]}],
)
def test_step_equals_diffusers(run_config: Callable[..., Config], family: str, objective: dict[str, object]) -> None:
    config = run_config(family, objective=objective)
    batch, draws, loss, gradients, start = ours(config)
    expected_loss, expected = reference(config, batch, draws, start)
    assert gradients.keys() == expected.keys()
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=TOLERANCE)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=TOLERANCE, msg=name)
    assert max(float(g.abs().max()) for g in gradients.values()) > 10 * TOLERANCE  # the comparison can fail


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_stored_text_is_what_the_pipeline_conditions_on(run_config: Callable[..., Config], family: str) -> None:
    config = run_config(family)
    dataset = Dataset(config.dataset)
    details = list(dataset.details("train", ("id", "captions")))
    row = details[0]
    stored = dataset.rows(row["bucket"], __import__("numpy").array([0]))
    kind = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    pipe = kind.from_pretrained(config.model.path)
    first = next(r for r in details if r["id"].hex() == stored.ids[0])
    encoded = pipe.encode_prompt(
        first["captions"][0], device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    torch.testing.assert_close(torch.from_numpy(stored.text["text"]).float(), encoded[0].float(), rtol=0, atol=2e-3)
    if family == "sdxl":
        torch.testing.assert_close(
            torch.from_numpy(stored.text["pooled"]).float(), encoded[2].float(), rtol=0, atol=2e-3
        )
