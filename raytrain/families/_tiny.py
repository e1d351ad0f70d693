"""Model folders with tiny random weights, built offline: the real classes at the smallest sizes,
for tests and trials."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import torch

LENGTH = 77


def tokenizer(folder: Path, pad: str = "<|endoftext|>") -> None:
    """Write a CLIP tokenizer of single characters: any text tokenizes, nothing is downloaded."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {word: number for number, word in enumerate(words)}
    CLIPTokenizer(
        vocab=vocabulary, merges=[], pad_token=pad, model_max_length=LENGTH
    ).save_pretrained(folder)


def write_sd15(folder: str, seed: int) -> None:
    """Write a Stable Diffusion 1.x folder of about 1 M parameters;
    see `raytrain.families.sd15.tiny`."""
    root = Path(folder)
    torch.manual_seed(seed)
    vae(root / "vae", 0.18215)
    tokenizer(root / "tokenizer")
    clip(root / "text_encoder", "CLIPTextModel", 32)
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=32,
        attention_head_dim=4, norm_num_groups=8,
    ).save_pretrained(root / "unet")  # fmt: skip
    _scheduler(root)
    nothing = {
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    index(root, "StableDiffusionPipeline", **nothing)


def write_sdxl(folder: str, seed: int) -> None:
    """Write a Stable Diffusion XL folder of about 1.5 M parameters;
    see `raytrain.families.sdxl.tiny`."""
    root = Path(folder)
    torch.manual_seed(seed)
    vae(root / "vae", 0.13025)
    tokenizer(root / "tokenizer")
    tokenizer(root / "tokenizer_2", pad="!")
    clip(root / "text_encoder", "CLIPTextModel", 32)
    clip(root / "text_encoder_2", "CLIPTextModelWithProjection", 48)
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 32, 64),
        layers_per_block=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
        "UpBlock2D"), transformer_layers_per_block=(1, 1, 2), cross_attention_dim=80,
        attention_head_dim=(2, 4, 4), norm_num_groups=8, use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=48 + 6 * 8,
    ).save_pretrained(root / "unet")  # fmt: skip
    _scheduler(root)
    index(root, "StableDiffusionXLPipeline")


def vae(folder: Path, scale: float, **settings: Any) -> None:
    """Write an 8x VAE of four channels; `settings` are further ones of `AutoencoderKL`."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(8, 8, 16, 16), layers_per_block=1,
        norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, sample_size=64, scaling_factor=scale, **settings,
    ).save_pretrained(folder)  # fmt: skip


def clip(folder: Path, kind: str, width: int) -> None:
    """Write a CLIP text encoder of the transformers class `kind`, for `tokenizer`;
    it pools to 48 dimensions."""
    import transformers

    letters = 2 * (26 + 10 + len(string.punctuation)) + 2
    config = transformers.CLIPTextConfig(
        vocab_size=letters, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=LENGTH, projection_dim=48,
        bos_token_id=letters - 2, eos_token_id=letters - 1, pad_token_id=letters - 1,
    )  # fmt: skip
    getattr(transformers, kind)(config).save_pretrained(folder)


def _scheduler(root: Path) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(root / "scheduler")


def index(root: Path, pipeline: str, **facts: Any) -> None:
    """Write `model_index.json`, which names each sub-folder's class;
    `facts` are further entries of it."""
    import diffusers

    tree: dict[str, Any] = {"_class_name": pipeline, "_diffusers_version": diffusers.__version__}
    for part in sorted(root.iterdir()):
        library, name = _class(part)
        tree[part.name] = [library, name]
    (root / "model_index.json").write_text(json.dumps(tree | facts, indent=2))


def _class(part: Path) -> tuple[str, str]:
    for file in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
        if (part / file).exists():
            found = json.loads((part / file).read_text())
            break
    if "_class_name" in found:
        return "diffusers", found["_class_name"]
    return "transformers", found["architectures"][0] if "architectures" in found else found[
        "tokenizer_class"
    ]
