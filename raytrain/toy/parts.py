"""The tiny parts of the toy world, untrained: the ordinary classes, only small."""

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from raytrain.toy.draw import PALETTE, SHAPES, STYLES

WORDS = ("a", "an", "on", "background", *PALETTE, *SHAPES, *STYLES)
TOKENS = 32
TEXT_WIDTH = 64
CLIP_PIXELS = 64
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def tokenizer() -> CLIPTokenizer:
    """One token for each word of the world; any other word falls into letters,
    so every caption has tokens."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = letters + [f"{letter}</w>" for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        for left, right in merges:  # a later word starts from what the earlier merges leave of it
            symbols = _merged(symbols, left, right)
        while len(symbols) > 1:
            pair = (symbols[0], symbols[1])
            merges.append(pair)
            vocabulary.append("".join(pair))
            symbols = _merged(symbols, *pair)
    vocabulary += [BEGIN, END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=TOKENS,
    )


def _merged(symbols: list[str], left: str, right: str) -> list[str]:
    result: list[str] = []
    for symbol in symbols:
        if symbol == right and result and result[-1] == left:
            result[-1] = left + right
        else:
            result.append(symbol)
    return result


def image_processor() -> CLIPImageProcessorPil:
    """Short edge to CLIP's size, then the center square, as the large CLIP does it."""
    square = {"height": CLIP_PIXELS, "width": CLIP_PIXELS}
    return CLIPImageProcessorPil(size={"shortest_edge": CLIP_PIXELS}, crop_size=square)


def clip(tokens: CLIPTokenizer) -> CLIPModel:
    """The judge: an image and its caption land on the same direction."""
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=CLIP_PIXELS,
        patch_size=8,
    )
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    )


def text_half(model: CLIPModel) -> CLIPTextModel:
    """The text encoder a denoiser listens to: the text half of `model`, weights copied."""
    encoder = CLIPTextModel(model.config.text_config)
    wanted = encoder.state_dict()
    prefix = "" if any(name.startswith("text_model.") for name in wanted) else "text_model."
    given = model.state_dict()
    encoder.load_state_dict({name: given[prefix + name] for name in wanted})
    return encoder


def vae() -> AutoencoderKL:
    """Four channels at a quarter of the width and height."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
    )


def unet() -> UNet2DConditionModel:
    """SD 1.5 in small; attention in the two lower levels only,
    as above them it would take most of a CPU's step."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=TEXT_WIDTH,
    )


def scheduler() -> DDIMScheduler:
    """The noise schedule of SD 1.5, sampled with DDIM."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save(folder: Path, *contents: Any) -> None:
    """Write parts into one folder; models as half-precision safetensors that load as float32.

    The folder appears only when it is whole.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in contents:
        (part.half() if hasattr(part, "half") else part).save_pretrained(partial)
    config = partial / "config.json"
    if config.exists():
        settings = json.loads(config.read_text(encoding="utf-8"))
        settings.pop("_name_or_path", None)
        if (
            "dtype" in settings
        ):  # transformers would load what it finds here, and half is slow on a CPU
            settings["dtype"] = "float32"
        config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(folder)
