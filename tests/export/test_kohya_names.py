"""kohya's module names of the published models, from lists written by hand after kohya's
documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import lora_conversion_utils as theirs
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from torch import nn

from raytrain.errors import UserError
from raytrain.families._kohya import sd_module, sdxl_module

SDXL: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SMALL_SDXL = SDXL | {
    "block_out_channels": (320, 640),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 2),
    "attention_head_dim": (5, 10),
}
SD15: dict[str, Any] = {"cross_attention_dim": 768}

# sgm's transformers in the published SDXL U-Net -> their depth
SDXL_TRANSFORMERS = {
    "input_blocks_4_1": 2, "input_blocks_5_1": 2, "input_blocks_7_1": 10, "input_blocks_8_1": 10,
    "middle_block_1": 10, "output_blocks_0_1": 10, "output_blocks_1_1": 10,
    "output_blocks_2_1": 10, "output_blocks_3_1": 2, "output_blocks_4_1": 2,
    "output_blocks_5_1": 2,
}  # fmt: skip
SDXL_RESNETS = (
    *(f"input_blocks_{number}_0" for number in (1, 2, 4, 5, 7, 8)),
    "middle_block_0", "middle_block_2", *(f"output_blocks_{number}_0" for number in range(9)),
)  # fmt: skip
SDXL_SHORTCUTS = (
    "input_blocks_4_0",
    "input_blocks_7_0",
    *(f"output_blocks_{number}_0" for number in range(9)),
)
SDXL_SAMPLERS = (
    "input_blocks_3_0_op",
    "input_blocks_6_0_op",
    "output_blocks_2_2_conv",
    "output_blocks_5_2_conv",
)
SDXL_OUTSIDE = (
    "input_blocks_0_0", "out_2", "time_embed_0", "time_embed_2", "label_emb_0_0", "label_emb_0_2",
)  # fmt: skip
SD15_TRANSFORMERS = (
    *(f"down_blocks_{block}_attentions_{layer}" for block in (0, 1, 2) for layer in (0, 1)),
    "mid_block_attentions_0",
    *(f"up_blocks_{block}_attentions_{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)),
)


def unet(settings: dict[str, Any]) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = UNet2DConditionModel(**settings)
    return model


def layers(model: nn.Module) -> list[str]:
    """Paths of all linear and convolution layers."""
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]


def transformer(prefix: str, depth: int) -> set[str]:
    """Names of the layers of one transformer of this depth, as kohya writes them."""
    inner = [
        f"{attention}_{part}"
        for attention in ("attn1", "attn2")
        for part in ("to_q", "to_k", "to_v", "to_out_0")
    ]
    inner += ["ff_net_0_proj", "ff_net_2"]
    blocks = {
        f"{prefix}_transformer_blocks_{number}_{layer}"
        for number in range(depth)
        for layer in inner
    }
    return blocks | {f"{prefix}_proj_in", f"{prefix}_proj_out"}


def test_names_of_the_published_sdxl() -> None:
    model = unet(SDXL)
    expected = set().union(
        *(transformer(name, depth) for name, depth in SDXL_TRANSFORMERS.items())
    )
    assert len(expected) == 722  # what kohya's trainer reports for SDXL
    expected |= {
        f"{name}_{part}"
        for name in SDXL_RESNETS
        for part in ("in_layers_2", "emb_layers_1", "out_layers_3")
    }
    expected |= {f"{name}_skip_connection" for name in SDXL_SHORTCUTS}
    expected |= {*SDXL_SAMPLERS, *SDXL_OUTSIDE}
    assert {sdxl_module(name, model) for name in layers(model)} == expected
    assert len(layers(model)) == len(expected)


def test_names_of_the_published_sd15() -> None:
    model = unet(SD15)
    expected = set().union(*(transformer(name, 1) for name in SD15_TRANSFORMERS))
    assert len(expected) == 192  # what kohya's trainer reports for Stable Diffusion 1.x
    assert {sd_module(name, model) for name in layers(model) if ".attentions." in name} == expected
    assert sd_module("down_blocks.0.resnets.1.conv1", model) == "down_blocks_0_resnets_1_conv1"


@pytest.mark.parametrize(
    "settings", [SDXL, SMALL_SDXL, SD15], ids=["sdxl", "two-blocks-of-one-layer", "sd15"]
)
def test_diffusers_reads_every_name_back(settings: dict[str, Any]) -> None:
    model: Any = unet(settings)
    rule: Callable[[str, nn.Module], str] = sd_module if settings is SD15 else sdxl_module
    tensors = {}
    for name in layers(model):
        for part in ("lora_down", "lora_up"):
            tensors[f"lora_unet_{rule(name, model)}.{part}.weight"] = torch.zeros(1, 1)
    tensors = theirs._maybe_map_sgm_blocks_to_diffusers(tensors, model.config)
    converted, _ = theirs._convert_non_diffusers_lora_to_diffusers(tensors)
    found = {
        key.removeprefix("unet.").split(".lora")[0]
        for key in convert_unet_state_dict_to_peft(converted)
    }
    assert found == set(layers(model))


def test_an_upsampler_after_a_block_without_attention_is_its_second_part() -> None:
    model = unet(
        SD15
    )  # Stable Diffusion 1.x in sgm naming: output_blocks.2 is a resnet and an upsampler
    assert sdxl_module("up_blocks.0.upsamplers.0.conv", model) == "output_blocks_2_1_conv"
    assert sdxl_module("up_blocks.1.upsamplers.0.conv", model) == "output_blocks_5_2_conv"


def test_a_layer_without_a_name_is_refused() -> None:
    model = unet(SDXL | {"time_cond_proj_dim": 8})
    with pytest.raises(UserError, match=r"time_embedding\.cond_proj"):
        sdxl_module("time_embedding.cond_proj", model)
    with pytest.raises(AttributeError):
        sdxl_module("down_blocks.9.resnets.0.conv1", model)
