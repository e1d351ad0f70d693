"""What the toy weights are worth, on images and captions they were not trained on."""

import json
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from raytrain.toy import parts
from raytrain.toy.draw import STYLES, TRAINING_SIZES, Size, draw

SAMPLING_STEPS = 25
GUIDANCE = 4.0
Drawn = tuple[Image.Image, str]


def note(folder: Path, stage: str, figures: dict[str, float]) -> None:
    """Keep a stage's figures in `figures.json`, so that a resumed run still reports them."""
    file = folder / "figures.json"
    known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    known[stage] = {name: round(value, 5) for name, value in figures.items()}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def write_index(folder: Path) -> None:
    """The model index that makes a folder of parts a StableDiffusionPipeline."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def held_out(style: str, count: int) -> list[Drawn]:
    """Images of one style in every aspect, from seeds no stage trains on."""
    sizes = list(TRAINING_SIZES.values())
    return [draw(f"held-out/{style}/{i}", style, sizes[i % len(sizes)]) for i in range(count)]


class Judge:
    """Scores how well images match captions: the cosine of the toy CLIP."""

    def __init__(self, folder: Path) -> None:
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        self.tokens = parts.tokenizer()
        self.processor = parts.image_processor()

    @torch.no_grad()
    def score(self, images: list[Image.Image], captions: list[str]) -> Tensor:
        """One cosine for each image and its caption."""
        views = torch.cat(
            [self.processor(images=each, return_tensors="pt")["pixel_values"] for each in images]
        )
        read = self.tokens(captions, padding=True, return_tensors="pt")
        seen = self.model(**read, pixel_values=views)
        return torch.nn.functional.cosine_similarity(seen.image_embeds, seen.text_embeds)


def sample(pipeline: Any, captions: list[str], sizes: list[Size], seed: int) -> list[Image.Image]:
    """One image for each caption, one batch for each size."""
    images: dict[int, Image.Image] = {}
    for size in dict.fromkeys(sizes):
        rows = [row for row, each in enumerate(sizes) if each == size]
        result = pipeline(
            [captions[row] for row in rows],
            width=size[0],
            height=size[1],
            num_inference_steps=SAMPLING_STEPS,
            guidance_scale=GUIDANCE,
            generator=torch.Generator().manual_seed(seed),
        ).images
        images.update(zip(rows, result, strict=True))
    return [images[row] for row in range(len(captions))]


def load_pipeline(folder: Path) -> Any:
    """The base model, ready to sample."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def vae_error(folder: Path, drawn: list[Drawn]) -> float:
    """Mean squared error of a round trip through the VAE, pixels from -1 to 1."""
    vae = AutoencoderKL.from_pretrained(folder).eval()
    errors = []
    for image, _ in drawn:
        truth = torch.from_numpy(numpy.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        errors.append(
            (vae.decode(vae.encode(truth).latent_dist.mode()).sample - truth).square().mean()
        )
    return torch.stack(errors).mean().item()


def report(folder: Path, seed: int, count: int) -> None:
    """Measure everything on `count` held-out images a style, and write the README."""
    judge = Judge(folder / "clip")
    pipeline = load_pipeline(folder / "sd15")
    for style in STYLES:
        drawn = held_out(style, count)
        images, captions = [image for image, _ in drawn], [caption for _, caption in drawn]
        sampled = sample(pipeline, captions, [image.size for image in images], seed)
        note(
            folder,
            style,
            {
                "vae_mse": vae_error(folder / "sd15" / "vae", drawn),
                "clip_matching": judge.score(images, captions).mean().item(),
                "clip_shuffled": judge.score(images, captions[1:] + captions[:1]).mean().item(),
                "clip_of_samples": judge.score(sampled, captions).mean().item(),
            },
        )
    write_readme(folder, seed, count)


def write_readme(folder: Path, seed: int, count: int) -> None:
    """Tell how the weights were made and what they are worth, from `figures.json`."""
    figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
    trained = [
        f"| {stage} | {row['steps']:.0f} | {row['minutes']:.1f} | {row['final_loss']:.4f} |"
        for stage, row in figures.items()
        if "steps" in row
    ]
    columns = ("vae_mse", "clip_matching", "clip_shuffled", "clip_of_samples")
    scored = [
        f"| {style} | " + " | ".join(f"{figures[style][column]:.3f}" for column in columns) + " |"
        for style in STYLES
    ]
    lines = [
        "# Toy weights",
        "",
        f"Made by `python -m raytrain.toy.pretrain --output raytrain/toy/weights --seed {seed}` "
        "on two CPU cores,",
        "from nothing but drawn images. `sd15/` is a StableDiffusionPipeline folder, `clip/` a "
        "CLIPModel with its",
        "tokenizer and image processor; half-precision safetensors that load as float32. The VAE "
        "and the CLIP saw",
        "every style; **the denoiser saw `flat` only**. Captions hold at most 32 tokens.",
        "",
        "| part | steps | minutes | final loss |",
        "|---|---|---|---|",
        *trained,
        "",
        f"{count} new images a style in three aspects (their captions are not new), CLIP figures "
        "are cosines.",
        f"Samples: {SAMPLING_STEPS} DDIM steps, guidance {GUIDANCE:g}.",
        "",
        "| style | VAE pixel MSE | real image, its caption | real image, another's | base's "
        "sample, its caption |",
        "|---|---|---|---|---|",
        *scored,
        "",
        "The gap between the second and the last column, below `flat`, is what an adapter has to "
        "close.",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
