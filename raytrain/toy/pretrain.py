"""Teach the tiny parts of the toy world, once, from a seed: `python -m raytrain.toy.pretrain
--output DIR`.

One function a stage, in order: vae, clip, text encoder, unet, pipeline, report. A stage whose
result exists is skipped, so a run that was stopped goes on with the stage it was in.
"""

import argparse
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel

from raytrain.toy import measure, parts
from raytrain.toy.draw import FOLDER_SIZES, STYLES, TRAINING_SIZES, draw

DDPM_STEPS = 1000
UNCONDITIONAL_SHARE = 0.1
CAPTION_TOKENS = 16
"""Every caption of the world is shorter; the rest would be padding."""


@dataclass(frozen=True)
class Plan:
    """What one run does: where to, from which seed, how long."""

    output: Path
    seed: int
    vae_steps: int
    clip_steps: int
    unet_steps: int
    images: int
    report_images: int

    @property
    def sd15(self) -> Path:
        """The Stable Diffusion folder."""
        return self.output / "sd15"

    @property
    def clip(self) -> Path:
        """The judge's folder."""
        return self.output / "clip"


def say(text: str) -> None:
    """One line of progress, at once."""
    print(text, flush=True)


def learn(
    stage: str,
    plan: Plan,
    parameters: Iterable[Tensor],
    steps: int,
    rate: float,
    loss_at: Callable[[int], Tensor],
    ema: float | None = None,
) -> None:
    """AdamW with warm-up and a cosine to zero; keeps the running average of the weights if `ema`
    is given."""
    weights = list(parameters)
    average = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
    warm_up = min(100, max(1, steps // 10))
    begin, recent = time.monotonic(), 0.0
    for step in range(1, steps + 1):
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / (steps + 1))
        optimizer.param_groups[0]["lr"] = rate * min(step / warm_up, cosine)
        loss = loss_at(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if ema is not None:
            decay = min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - decay)
        recent = loss.item() if step == 1 else 0.98 * recent + 0.02 * loss.item()
        if step % 50 == 0 or step == steps:
            pace = (time.monotonic() - begin) / step
            say(
                f"{stage} {step}/{steps} loss {recent:.4f} {pace:.3f} s/step "
                f"{pace * (steps - step) / 60:.1f} min left"
            )
    if ema is not None:
        for weight, mean in zip(weights, average, strict=True):
            weight.data.copy_(mean)
    seconds = time.monotonic() - begin
    measure.note(
        plan.output, stage, {"steps": steps, "final_loss": recent, "minutes": seconds / 60}
    )


def pixels(images: Iterable[Image.Image]) -> Tensor:
    """Images of one size as bytes, channels first."""
    return torch.from_numpy(numpy.stack([numpy.asarray(image) for image in images])).permute(
        0, 3, 1, 2
    )


def to_range(batch: Tensor) -> Tensor:
    """Bytes to the range a VAE works in, -1 to 1."""
    return batch.float() / 127.5 - 1


def batches(pools: list[Tensor], size: int, rng: random.Random) -> Iterator[tuple[int, Tensor]]:
    """Endless random batches, each from one pool: the pool's number and the rows."""
    while True:
        pool = rng.randrange(len(pools))
        yield pool, torch.tensor([rng.randrange(len(pools[pool])) for _ in range(size)])


def train_vae(plan: Plan) -> None:
    """The autoencoder learns every style, so that an adapter can draw what the base cannot."""
    pools = []
    for aspect, size in TRAINING_SIZES.items():
        seeds = range(plan.images // len(TRAINING_SIZES))
        pools.append(
            pixels(draw(f"vae/{plan.seed}/{aspect}/{i}", STYLES[i % 3], size)[0] for i in seeds)
        )
    model = parts.vae().to(memory_format=torch.channels_last).train()
    rows = batches(pools, 16, random.Random(plan.seed))

    def loss_at(step: int) -> Tensor:
        pool, chosen = next(rows)
        truth = to_range(pools[pool][chosen])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(truth).latent_dist
            drawn = model.decode(posterior.sample()).sample.float()
        error = drawn - truth
        divergence: Tensor = posterior.kl().float().mean()
        loss: Tensor = error.square().mean() + error.abs().mean() + 1e-6 * divergence
        return loss

    learn("vae", plan, model.parameters(), plan.vae_steps, 2e-3, loss_at, ema=0.99)
    with torch.no_grad():
        latents = [
            model.encode(to_range(pool[:200])).latent_dist.sample().flatten() for pool in pools
        ]
    model.register_to_config(scaling_factor=round(1 / torch.cat(latents).std().item(), 5))
    parts.save(plan.sd15 / "vae", model)


def train_clip(plan: Plan) -> None:
    """The judge learns which caption belongs to which image, in every style and aspect."""
    tokens, processor = parts.tokenizer(), parts.image_processor()
    sizes = [*TRAINING_SIZES.values(), *TRAINING_SIZES.values(), *FOLDER_SIZES.values()]
    styles = ("flat", *STYLES)
    drawn = [
        draw(f"clip/{plan.seed}/{i}", styles[i % 4], sizes[i // 4 % len(sizes)])
        for i in range(2 * plan.images)
    ]
    seen = torch.cat(
        [processor(images=image, return_tensors="pt")["pixel_values"] for image, _ in drawn]
    ).half()
    captions = sorted({caption for _, caption in drawn})
    number = {caption: i for i, caption in enumerate(captions)}
    said = torch.tensor([number[caption] for _, caption in drawn])
    read = tokens(captions, padding="max_length", max_length=CAPTION_TOKENS, return_tensors="pt")[
        "input_ids"
    ]
    model = parts.clip(tokens).train()
    rows = batches([seen], 128, random.Random(plan.seed))

    def loss_at(step: int) -> Tensor:
        _, chosen = next(rows)
        views, which = seen[chosen].float(), said[chosen]
        views = views + torch.randn_like(views) * torch.rand(len(views), 1, 1, 1) * 0.3
        logits = model(input_ids=read[which], pixel_values=views).logits_per_text
        alike = (which[:, None] == which[None, :]).float()
        target = alike / alike.sum(1, keepdim=True)
        return (
            torch.nn.functional.cross_entropy(logits, target)
            + torch.nn.functional.cross_entropy(logits.t(), target)
        ) / 2

    learn("clip", plan, model.parameters(), plan.clip_steps, 1e-3, loss_at)
    parts.save(plan.clip, model, tokens, processor)


def copy_text_encoder(plan: Plan) -> None:
    """The denoiser listens to the text half of the judge, as SD 1.5 does."""
    parts.save(plan.sd15 / "text_encoder", parts.text_half(CLIPModel.from_pretrained(plan.clip)))


def train_unet(plan: Plan) -> None:
    """The denoiser learns the flat style only; captions are dropped at times, for guidance."""
    vae = AutoencoderKL.from_pretrained(plan.sd15 / "vae").eval()
    encoder = CLIPTextModel.from_pretrained(plan.sd15 / "text_encoder").eval()
    tokens = parts.tokenizer()
    means, spreads, said = [], [], []
    captions: dict[str, int] = {"": 0}
    for aspect, size in TRAINING_SIZES.items():
        drawn = [
            draw(f"unet/{plan.seed}/{aspect}/{i}", "flat", size)
            for i in range(plan.images // len(TRAINING_SIZES))
        ]
        said.append(
            torch.tensor([captions.setdefault(caption, len(captions)) for _, caption in drawn])
        )
        with torch.no_grad():
            seen = pixels(image for image, _ in drawn)
            posteriors = [
                vae.encode(to_range(seen[i : i + 50])).latent_dist for i in range(0, len(seen), 50)
            ]
        means.append(
            torch.cat([posterior.mean for posterior in posteriors]) * vae.config.scaling_factor
        )
        spreads.append(
            torch.cat([posterior.std for posterior in posteriors]) * vae.config.scaling_factor
        )
    read = tokens(list(captions), padding="max_length", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        heard = encoder(read).last_hidden_state
    alphas = parts.scheduler().alphas_cumprod
    snr = alphas / (1 - alphas)
    emphasis = (
        snr.clamp(max=5) / snr
    )  # min-SNR 5: fewer gradients into noise that no eye would see
    model = parts.unet().train()
    rows = batches(means, 32, random.Random(plan.seed))

    def loss_at(step: int) -> Tensor:
        pool, chosen = next(rows)
        latents = means[pool][chosen] + spreads[pool][chosen] * torch.randn_like(
            means[pool][chosen]
        )
        which = said[pool][chosen] * (torch.rand(len(chosen)) >= UNCONDITIONAL_SHARE)
        noise = torch.randn_like(latents)
        times = torch.randint(DDPM_STEPS, (len(chosen),))
        keep = alphas[times].view(-1, 1, 1, 1)
        noisy = keep.sqrt() * latents + (1 - keep).sqrt() * noise
        guess = model(noisy, times, heard[which]).sample
        loss: Tensor = (emphasis[times] * (guess - noise).square().mean((1, 2, 3))).mean()
        return loss

    learn("unet", plan, model.parameters(), plan.unet_steps, 1e-3, loss_at, ema=0.998)
    parts.save(plan.sd15 / "unet", model)


def write_pipeline(plan: Plan) -> None:
    """What remains of an ordinary Stable Diffusion folder."""
    parts.save(plan.sd15 / "tokenizer", parts.tokenizer())
    parts.save(plan.sd15 / "scheduler", parts.scheduler())
    measure.write_index(plan.sd15)


def write_report(plan: Plan) -> None:
    """The held-out figures, and the README that tells them."""
    measure.report(plan.output, plan.seed, plan.report_images)


def stages(plan: Plan) -> list[tuple[Callable[[Plan], None], Path]]:
    """Each stage with what it leaves behind."""
    return [
        (train_vae, plan.sd15 / "vae"),
        (train_clip, plan.clip),
        (copy_text_encoder, plan.sd15 / "text_encoder"),
        (train_unet, plan.sd15 / "unet"),
        (write_pipeline, plan.sd15 / "model_index.json"),
        (write_report, plan.output / "README.md"),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Run every stage that has not run yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=1100)
    parser.add_argument("--clip-steps", type=int, default=800)
    parser.add_argument("--unet-steps", type=int, default=2600)
    parser.add_argument(
        "--images", type=int, default=6000, help="drawn for the VAE; the others scale with it"
    )
    parser.add_argument(
        "--report-images", type=int, default=96, help="sampled for each held-out score"
    )
    plan = Plan(**vars(parser.parse_args(arguments)))
    os.nice(5)
    torch.set_num_threads(2)
    for position, (stage, result) in enumerate(stages(plan)):
        if result.exists():
            say(f"{stage.__name__}: {result} is there already")
            continue
        torch.manual_seed(plan.seed + position)
        begin = time.monotonic()
        stage(plan)
        say(f"{stage.__name__}: done in {(time.monotonic() - begin) / 60:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
