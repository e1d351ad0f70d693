"""Models of the published sizes with random weights: nothing is downloaded.

# writes a model folder, images and my.toml, and says what to run
python -m tests.bench.published sdxl --output runs/sdxl --gpu
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, T5Config

from raytrain import families, pretrained
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.model import Model, build
from raytrain.toy.draw import draw_folder
from raytrain.train import cost
from raytrain.train.engines.speed import PRECISIONS

VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                        num_attention_heads=12, projection_dim=768)  # fmt: skip
CLIP_G = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                        num_attention_heads=20, projection_dim=1280)  # fmt: skip
T5_XXL = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                  feed_forward_proj="gated-gelu", is_encoder_decoder=False)  # fmt: skip
SIDES = {"sd15": 512, "sdxl": 1024, "sd3": 1024}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd15": {
        "text_encoder": CLIP_L,
        "unet": (UNet2DConditionModel, {
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        }),
    },
    "sdxl": {
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G,
        "unet": (UNet2DConditionModel, {
            "sample_size": 128, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048, "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }),
    },
    "sd3": {
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL,
        "transformer": (SD3Transformer2DModel, {
            "sample_size": 128, "in_channels": 16, "out_channels": 16, "num_layers": 24,
            "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        }),
    },
}  # fmt: skip
"""Family -> part -> its published config (the models' folders on the hub)."""
CONFIG = """seed = 1
output = "{output}/run"

[model]
family = "{family}"
path = "{output}/model"

[method]
name = "lora"
rank = 16

[data]
source = "{output}/images"

[data.buckets]
resolution = {side}

[data.encode]
gpus_per_worker = {gpus}
precision = "bf16"

[train]
steps = {steps}
global_batch = {batch}
precision = "bf16"
gpus_per_worker = {gpus}

[sample]
width = {side}
height = {side}
max_prompts = 2

[evaluate]
max_held_out = 6
"""


def write_folder(family: str, folder: Path) -> Path:
    """Write a model folder with the published configs, without weights."""
    families.load(family).tiny(str(folder))
    for part, published in PUBLISHED[family].items():
        shutil.rmtree(folder / part)
        if isinstance(published, tuple):
            kind, config = published
            with cost.META:
                kind(**config).save_config(folder / part)
        else:
            kind = json.loads((folder / "model_index.json").read_text())[part][1]
            published.architectures = [kind]
            published.save_pretrained(folder / part)
    vae = json.loads((folder / "vae/config.json").read_text())
    shutil.rmtree(folder / "vae")
    with cost.META:
        kept = ("latent_channels", "scaling_factor", "shift_factor",
                "use_quant_conv", "use_post_quant_conv")  # fmt: skip
        AutoencoderKL(**VAE, **{name: vae[name] for name in kept}).save_config(folder / "vae")
    return folder


def config(family: str, folder: Path, base: dict[str, Any] | None = None, **train: Any) -> Config:
    """Return the config of a LoRA; keyword arguments are keys of [train]."""
    return parse({
        "output": str(folder / "run"),
        "model": {"family": family, "path": str(folder), **(base or {})},
        "method": {"name": "lora", "rank": 16},
        "train": train,
    })  # fmt: skip


def model(config: Config, device: torch.device) -> Model:
    """Return the model a config trains, with random weights; the frozen ones in the precision
    of the run."""
    family, dtype = families.load(config.model.family), PRECISIONS[config.train.precision]

    def load(part: str) -> Any:
        with device:
            found = cost.structure(family, config, part)
        if isinstance(found, nn.Module):
            found = pretrained.quantized(found.to(device, dtype), config.model)
        return found

    return build(config, device, load=load)


def batch(config: Config, side: int, rows: int, device: torch.device) -> Batch:
    """Return a batch of square images, its columns random."""
    generator = torch.Generator().manual_seed(0)
    columns = {}
    for name, column in cost.row(config, side, side).columns.items():
        shape = (rows, *column.shape[1:])
        if name == "sizes":
            columns[name] = torch.tensor([[side, side, 0, 0, side, side]] * rows).float()
        elif column.dtype.is_floating_point:
            columns[name] = torch.randn(shape, generator=generator).to(column.dtype)
        else:
            columns[name] = torch.zeros(shape, dtype=column.dtype)
    ids = [str(number) for number in range(rows)]
    return Batch(ids, [0] * rows, torch.ones(rows), Columns(columns)).to(device)


def save_weights(family: str, folder: Path, device: torch.device) -> None:
    """Write random bfloat16 weights for every part of a folder."""
    torch.manual_seed(0)
    settings = config(family, folder)
    for part, kind in families.load(family).PARTS.items():
        if kind != "tokenizer":
            with device:
                built = pretrained.skeleton(settings.model, part)
            built.to(torch.bfloat16).save_pretrained(folder / part)  # type: ignore[operator]


def main() -> None:
    """Write the model, the images and the config."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.published", description=__doc__)
    parser.add_argument("family", choices=PUBLISHED)
    parser.add_argument("--output", required=True)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--gpu", action="store_true", help="a config for one GPU")
    options = parser.parse_args()
    folder = Path(options.output)
    device = torch.device("cuda" if options.gpu else "cpu")
    save_weights(options.family, write_folder(options.family, folder / "model"), device)
    draw_folder(folder / "images", options.images, style="neon")
    (folder / "my.toml").write_text(
        CONFIG.format(
            family=options.family,
            output=folder,
            side=SIDES[options.family],
            batch=options.batch,
            steps=options.steps,
            gpus=int(options.gpu),
        )
    )
    print(f"raytrain run {folder / 'my.toml'}")


if __name__ == "__main__":
    main()
