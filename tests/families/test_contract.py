"""What every family promises: it is its diffusers pipeline, taken apart.

No family is named here.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor, nn

from raytrain import families, plugins
from raytrain.config import ModelConfig
from raytrain.diffusion.process import Ddpm
from raytrain.errors import UserError
from tests.families import plain
from tests.families.conftest import Tiny

TOLERANCE = 1e-5
CPU = torch.device("cpu")
CAPTIONS = ["a red star", "the quick brown fox jumps over the lazy dog! " * 3]
NEGATIVE = ["", "blue"]
WIDTH, HEIGHT, GUIDANCE = 96, 64, 4.0
LENGTHS = get_args(ModelConfig.model_fields["max_tokens"].annotation)


@pytest.fixture(scope="module", params=plugins.names("families"))
def made(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    return tiny(request.param)


def noise(made: Tiny, seed: int = 1) -> Tensor:
    """Start noise of two images."""
    shape = made.family.latent(made.model)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(
        2, shape.channels, HEIGHT // shape.factor, WIDTH // shape.factor, generator=generator
    )


def condition(made: Tiny, captions: Sequence[str]) -> dict[str, Tensor]:
    """What a denoiser is given of captions, encoded by the family."""
    tokens = made.family.tokenize(made.of("tokenizer"), captions, made.model)
    with torch.no_grad():
        text = made.family.encode_text(made.of("text"), tokens, made.model)
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]]).float()
    return {**text, "sizes": sizes.expand(len(captions), -1)}


def call(made: Tiny) -> dict[str, Any]:
    """What a pipeline is called with."""
    return {
        "prompt": CAPTIONS,
        "negative_prompt": NEGATIVE,
        "num_inference_steps": 3,
        "guidance_scale": GUIDANCE,
        "height": HEIGHT,
        "width": WIDTH,
        "latents": noise(made),
    }


def check_steps(
    made: Tiny,
    seen: plain.Watched,
    scheduler: Any,
    extra: Callable[..., dict[str, Any]] = lambda *_: {},
) -> None:
    """Assert that the family predicts, with guidance, what a pipeline gave its scheduler at every
    step."""
    given, unwanted = condition(made, CAPTIONS), condition(made, NEGATIVE)
    ddpm = isinstance(made.family.process(made.model), Ddpm)
    assert len(seen.steps) == 3
    for number, (expected, step, sample) in enumerate(seen.steps):
        time = (step if ddpm else scheduler.sigmas[number]).expand(2)
        with torch.no_grad():
            wanted, other = (
                made.family.predict(
                    made.denoiser, sample, time, each, made.model, **extra(sample, time, each)
                )
                for each in (given, unwanted)
            )
        torch.testing.assert_close(
            other + GUIDANCE * (wanted - other), expected, rtol=0, atol=GUIDANCE * TOLERANCE
        )


def test_a_model_folder_has_the_parts_of_the_pipeline(made: Tiny) -> None:
    components = {name for name, part in made.pipe.components.items() if part is not None}
    assert components == {*made.family.PARTS, "scheduler"}
    for name, part in made.parts.items():
        own = getattr(made.pipe, name)
        assert type(part) is type(own)
        if isinstance(part, nn.Module):
            weights = dict(own.named_parameters())
            assert all(
                torch.equal(weight, weights[key]) for key, weight in part.named_parameters()
            )


def test_captions_are_encoded_as_the_pipeline_encodes_them(made: Tiny) -> None:
    encoded, found = condition(made, CAPTIONS), plain.conditions(made.pipe, CAPTIONS)
    assert tuple(name for name in encoded if name != "sizes") == made.family.CONDITION
    for name in made.family.CONDITION:
        assert plain.among(encoded[name], found, TOLERANCE), name


def test_encoding_is_differentiable(made: Tiny) -> None:
    encoders = made.of("text")
    weights = [
        encoder.get_input_embeddings().weight.requires_grad_(True) for encoder in encoders.values()
    ]
    tokens = made.family.tokenize(made.of("tokenizer"), CAPTIONS, made.model)
    columns = made.family.encode_text(encoders, tokens, made.model)
    loss = sum(column.square().sum() for column in columns.values())
    for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        assert gradient.abs().max() > 0
        weight.requires_grad_(False)


def test_a_caption_is_too_long_when_its_end_is_not_encoded(made: Tiny) -> None:
    for length in made.family.CAPTION_TOKENS:
        own = replace(made, model=made.model.model_copy(update={"max_tokens": length}))
        most = families.caption_tokens(made.family, own.model)
        starts = ["a" * number for number in range(most - 2, most + 2)]
        told = own.family.too_long(
            own.of("tokenizer"), [f"{start}b" for start in starts], own.model
        )
        assert told == sorted(told)
        assert set(told) == {False, True}
        for start, lost in zip(starts, told, strict=True):
            one, two = (condition(own, [start + ending])["text"] for ending in "bc")
            assert torch.equal(one, two) is lost
        assert condition(own, [""])["text"].shape == condition(own, [starts[-1]])["text"].shape


def test_a_caption_length_that_would_have_no_effect_is_refused(made: Tiny) -> None:
    for length in set(LENGTHS) - set(made.family.CAPTION_TOKENS):
        model = made.model.model_copy(update={"max_tokens": length})
        with pytest.raises(UserError, match=f"max_tokens = {length}"):
            families.caption_tokens(made.family, model)


def test_every_step_of_sampling_is_the_pipelines(made: Tiny) -> None:
    seen = plain.watch(made.pipe, **call(made))
    check_steps(made, seen, made.pipe.scheduler)
    pipe = made.family.pipeline(
        made.model, {families.denoiser(made.family): made.denoiser}, "auto", CPU
    )
    again = plain.watch(pipe, **call(made))
    torch.testing.assert_close(again.images, seen.images, rtol=0, atol=TOLERANCE)


def test_latents_are_what_the_pipeline_decodes_from(made: Tiny) -> None:
    seen, shape = plain.watch(made.pipe, **call(made)), made.family.latent(made.model)
    stored = (
        torch.cat([seen.decoded, torch.zeros_like(seen.decoded)], dim=1)
        if shape.posterior
        else seen.decoded
    )
    normal = torch.zeros_like(seen.decoded) if shape.posterior else None
    found = made.family.latents(stored, normal, made.model)
    torch.testing.assert_close(found, seen.last, rtol=0, atol=TOLERANCE)


def test_an_image_is_stored_as_its_vae_sees_it(made: Tiny) -> None:
    shape, vae = made.family.latent(made.model), made.parts["vae"]
    pixels = torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        stored = made.family.encode_image(vae, pixels)
        expected = vae.encode(pixels)
    assert stored.shape == (2, shape.stored, HEIGHT // shape.factor, WIDTH // shape.factor)
    assert HEIGHT % shape.multiple == WIDTH % shape.multiple == 0
    assert shape.multiple % shape.factor == 0
    if shape.posterior:
        assert torch.equal(stored, expected.latent_dist.parameters)


def test_an_image_beyond_the_models_positions_is_refused(made: Tiny) -> None:
    shape, step = made.family.latent(made.model), made.family.latent(made.model).multiple
    given = condition(made, CAPTIONS[:1])

    @torch.no_grad()
    def predict(width: int) -> Tensor:
        latents = torch.zeros(1, shape.channels, HEIGHT // shape.factor, width // shape.factor)
        found: Tensor = made.family.predict(
            made.denoiser, latents, torch.ones(1), given, made.model
        )
        return found

    largest = shape.largest or 20 * WIDTH
    assert predict(largest).isfinite().all()
    if shape.largest:
        with pytest.raises(UserError, match=str(largest)):
            predict(largest + step)


def test_clean_latents_come_back_from_what_should_be_predicted(made: Tiny) -> None:
    own = made.family.process(made.model)
    generator = torch.Generator().manual_seed(3)
    clean, added = torch.randn(2, 8, 4, 6, 6, dtype=torch.float64, generator=generator)
    time = own.time(torch.linspace(0, 0.999, 8, dtype=torch.float64), clean.shape[1:])
    for prediction in own.PREDICTIONS:
        process = replace(own, prediction=prediction)
        noisy, target = process.noised(clean, added, time), process.target(clean, added, time)
        # as exact as float32 has the levels
        torch.testing.assert_close(process.clean(noisy, target, time), clean, rtol=0, atol=1e-6)
        assert (process.snr(time).diff() < 0).all()


def test_times_are_those_of_the_scheduler(made: Tiny) -> None:
    process, scheduler = (
        made.family.process(made.model),
        type(made.pipe.scheduler).from_config(made.pipe.scheduler.config),
    )
    count = scheduler.config.num_train_timesteps
    shares = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    found = process.time(shares, noise(made).shape[1:])
    if isinstance(process, Ddpm):
        assert torch.equal(found, torch.arange(count))
        torch.testing.assert_close(process.alphas_cumprod, scheduler.alphas_cumprod)
    else:
        torch.testing.assert_close(found, scheduler.sigmas.flip(0), rtol=0, atol=1e-6)
    edges = process.time(
        torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), noise(made).shape[1:]
    )
    assert torch.equal(edges, found[[0, -1]])


def test_every_target_is_a_layer_of_its_part(made: Tiny) -> None:
    for targets, kind in (
        (made.family.LORA_TARGETS, nn.Linear),
        (made.family.CONV_TARGETS, nn.Conv2d),
    ):
        for part, endings in targets.items():
            layers = {
                name: layer
                for name, layer in made.parts[part].named_modules()
                if isinstance(layer, kind)
            }
            for ending in endings:
                assert any(f".{name}".endswith(f".{ending}") for name in layers), (part, ending)
    assert families.denoiser(made.family) in made.family.LORA_TARGETS


def test_every_target_has_a_name_of_its_own_in_kohyas_format(made: Tiny) -> None:
    names = []
    for part, endings in made.family.LORA_TARGETS.items():
        prefix, rename = made.family.KOHYA[part]
        layers = [name for name, _ in made.parts[part].named_modules()]
        targeted = [
            name for name in layers if any(f".{name}".endswith(f".{ending}") for ending in endings)
        ]
        names += [f"{prefix}_{rename(name, made.parts[part])}" for name in targeted]
        with pytest.raises(AttributeError):
            rename("no.such.layer", made.parts[part])
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)


def hashes(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_tiny_weights_depend_on_the_seed_alone(made: Tiny, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("other", 1)):
        torch.manual_seed(seed + 5)
        made.family.tiny(str(tmp_path / name), seed)
    again, other = hashes(tmp_path / "one"), hashes(tmp_path / "other")
    assert again == hashes(Path(made.model.path))
    different = {name for name in again if again[name] != other[name]}
    assert different == {name for name in again if name.endswith(".safetensors")}


def test_no_verb_draws_a_global_random_number(made: Tiny) -> None:
    start, pixels = noise(made), torch.zeros(1, 3, HEIGHT, WIDTH)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    given = condition(made, CAPTIONS)
    process, shape = made.family.process(made.model), made.family.latent(made.model)
    time = process.time(torch.tensor([0.2, 0.7], dtype=torch.float64), start.shape[1:])
    with torch.no_grad():
        made.family.predict(made.denoiser, start, time, given, made.model)
        stored = made.family.encode_image(made.parts["vae"], pixels)
    made.family.latents(stored, start[:1] if shape.posterior else None, made.model)
    made.family.too_long(made.of("tokenizer"), CAPTIONS, made.model)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


CONTROLLED = [
    name for name in plugins.names("families") if hasattr(families.load(name), "control_branch")
]


@pytest.fixture(scope="module", params=CONTROLLED)
def steered(request: pytest.FixtureRequest, tiny: Callable[[str], Tiny]) -> Tiny:
    """A family that takes control images."""
    return tiny(request.param)


@pytest.fixture
def branch(steered: Tiny) -> Any:
    """Its ControlNet as it begins."""
    config = dict(steered.denoiser.config)
    found = steered.family.control_branch(steered.denoiser, steered.parts.__getitem__).eval()
    assert dict(steered.denoiser.config) == config
    return found


def control_images() -> tuple[list[Image.Image], Tensor]:
    """Two control images, and as a batch has them."""
    values = np.random.default_rng(5).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    return [Image.fromarray(each) for each in values], torch.from_numpy(values).permute(0, 3, 1, 2)


def hint(made: Tiny, branch: Any) -> Tensor:
    found: Tensor = made.family.hint(
        {**made.parts, "controlnet": branch}, control_images()[1], made.model
    )
    return found


def test_a_new_control_branch_changes_nothing_and_learns(steered: Tiny, branch: Any) -> None:
    start, given, own = noise(steered), condition(steered, CAPTIONS), hint(steered, branch)
    time = steered.family.process(steered.model).time(
        torch.tensor([0.2, 0.7], dtype=torch.float64), start.shape[1:]
    )
    extra = steered.family.control(branch, start, time, given, own, 1.0)
    with torch.no_grad():
        plainly = steered.family.predict(steered.denoiser, start, time, given, steered.model)
    controlled = steered.family.predict(
        steered.denoiser, start, time, given, steered.model, **extra
    )
    assert torch.equal(controlled, plainly)
    controlled.square().mean().backward()
    gradients = {
        name: weight.grad.abs().max()
        for name, weight in branch.named_parameters()
        if weight.grad is not None
    }
    learning = {name for name, largest in gradients.items() if largest > 0}
    weights = dict(branch.named_parameters())
    assert learning
    assert all(
        not weights[name].any() for name in learning
    )  # those behind the zero layers wait for these


def test_every_step_of_sampling_under_control_is_the_pipelines(
    steered: Tiny, branch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_control(steered, branch, monkeypatch)


def check_control(steered: Tiny, branch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a family predicts with a branch what the pipeline does with it,
    and another thing than without."""
    generator = torch.Generator().manual_seed(6)
    for weight in branch.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    # some pipelines sample the control image's posterior by the global generator
    monkeypatch.setattr(
        DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()
    )
    parts = {families.denoiser(steered.family): steered.denoiser, "controlnet": branch}
    pipe = steered.family.pipeline(steered.model, parts, "auto", CPU)
    images, own = {steered.family.CONTROL_INPUT: control_images()[0]}, hint(steered, branch)
    seen = plain.watch(pipe, **call(steered), **images, controlnet_conditioning_scale=0.7)

    def extra(sample: Tensor, time: Tensor, given: dict[str, Tensor]) -> dict[str, Any]:
        controlled: dict[str, Any] = steered.family.control(branch, sample, time, given, own, 0.7)
        return controlled

    check_steps(steered, seen, pipe.scheduler, extra)
    without = plain.watch(steered.pipe, **call(steered))
    assert (seen.last - without.last).abs().max() > 0.01
