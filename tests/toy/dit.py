"""Does a diffusion transformer learn from nothing?

Family sd3 with random weights, trained whole on the toy world.

    # writes the model folder and my.toml, and says what to run
    python -m tests.toy.dit --output runs/dit

The folder has the toy world's VAE and text encoder, which were trained, and a small transformer's
config. Two workers under DDP train it (`raytrain run`), and `raytrain evaluate` compares it with
what it was before the first step.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, T5Config, T5EncoderModel

from raytrain import families
from raytrain.toy import CLIP, SD15
from raytrain.toy.draw import draw_folder
from raytrain.toy.parts import TEXT_WIDTH

CONFIG = """seed = 1
output = "{output}/run"

[model]
family = "sd3"
path = "{output}/model"
weights = "random"

[method]
name = "full"

[data]
source = "{output}/images"
held_out = 0.1

[data.buckets]
resolution = 64
step = 16
sizes = [[64, 64]]

[data.encode]
batch = 16

[train]
steps = {steps}
global_batch = 16
learning_rate = 1e-3
lr_schedule = "cosine"
warmup = 20
workers = 2
engine = "ddp"
held_out_every = 100
checkpoint_every = 200

[sample]
width = 64
height = 64
steps = 16
guidance_scale = 3.0
max_prompts = 16
batch = 16

[evaluate]
clip = "{clip}"
scorers = ["clip_text", "held_out_loss"]
max_held_out = 24

[log]
tensorboard = false
"""


def write_model(folder: Path) -> None:
    """Write a model folder of family sd3 whose transformer is fit for two cores."""
    families.load("sd3").tiny(str(folder))
    shutil.rmtree(folder / "vae")
    vae = AutoencoderKL.from_pretrained(SD15 / "vae")
    vae.register_to_config(shift_factor=0.0)  # the pipeline of SD3 adds it
    vae.save_pretrained(folder / "vae")
    for part in ("tokenizer", "tokenizer_2"):
        shutil.rmtree(folder / part)
        shutil.copytree(SD15 / part.removesuffix("_2"), folder / part)
    for part in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(folder / part)
        CLIPTextModelWithProjection.from_pretrained(
            CLIP, projection_dim=TEXT_WIDTH
        ).save_pretrained(folder / part)
    for part in ("text_encoder_3", "transformer"):
        shutil.rmtree(folder / part)
    torch.manual_seed(0)
    T5EncoderModel(T5Config(
        vocab_size=128, d_model=2 * TEXT_WIDTH, d_kv=16, d_ff=64, num_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
    )).save_pretrained(folder / "text_encoder_3")  # fmt: skip
    SD3Transformer2DModel(
        sample_size=16, in_channels=4, num_layers=4, attention_head_dim=32, num_attention_heads=4,
        joint_attention_dim=2 * TEXT_WIDTH, caption_projection_dim=128, pooled_projection_dim=128,
        out_channels=4, pos_embed_max_size=16, qk_norm="rms_norm",
    ).save_pretrained(folder / "transformer")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")


def main() -> None:
    """Write everything that a run needs."""
    parser = argparse.ArgumentParser(prog="python -m tests.toy.dit", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--steps", type=int, default=800)
    options = parser.parse_args()
    output = options.output.resolve()
    write_model(output / "model")
    draw_folder(output / "images", options.images, style="flat", seed=3)
    text = CONFIG.format(output=output, clip=CLIP, steps=options.steps)
    (output / "my.toml").write_text(text, encoding="utf-8")
    print(f"raytrain run {output}/my.toml && raytrain evaluate {output}/my.toml")


if __name__ == "__main__":
    main()
