"""kohya's names for the modules of a U-Net, from diffusers' names.

kohya trains Stable Diffusion 1 and 2 on diffusers' U-Net, so there the name is the path with `.`
made `_`. It trains SDXL on the original sgm U-Net, whose blocks are one flat list: with L layers
in every diffusers block,

    down_blocks.i.resnets.j / attentions.j    input_blocks.(1 + i(L+1) + j).0 / .1
    down_blocks.i.downsamplers.0.conv         input_blocks.((i+1)(L+1)).0.op
    mid_block.resnets.j / attentions.j        middle_block.(2j) / (2j+1)
    up_blocks.i.resnets.j / attentions.j      output_blocks.(i(L+1) + j).0 / .1
    up_blocks.i.upsamplers.0.conv             output_blocks.(i(L+1) + L).(2 where the block has
                                              attention, else 1).conv
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from raytrain.errors import UserError
from raytrain.families import published

if TYPE_CHECKING:
    from torch import nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_INSIDE = re.compile(r"(down_blocks\.(\d+)|mid_block|up_blocks\.(\d+))\.(\w+)\.(\d+)(?:\.(.+))?")


@dataclass(frozen=True)
class Layout:
    """What the flat numbering depends on: layers of every down block and which up blocks have
    attention."""

    layers: tuple[int, ...]
    up_attention: tuple[bool, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Layout:
        """Read the layout from a `UNet2DConditionModel` config."""
        up = config["up_block_types"]
        layers: int | Sequence[int] = config.get("layers_per_block", 2)
        each = (layers,) * len(up) if isinstance(layers, int) else tuple(layers)
        return cls(each, tuple("Attn" in kind for kind in up))


def plain(name: str, part: nn.Module) -> str:
    """Return kohya's name of a module whose path it keeps: `.` made `_`."""
    part.get_submodule(
        name
    )  # a name the model does not have would be ignored silently by every loader
    return published(name).replace(".", "_")


def sd_module(name: str, denoiser: nn.Module) -> str:
    """Return kohya's name of a Stable Diffusion 1 or 2 U-Net module."""
    denoiser.get_submodule(
        name
    )  # a name the model does not have would be ignored silently by every loader
    return name.replace(".", "_")


def sdxl_module(name: str, denoiser: nn.Module) -> str:
    """Return kohya's name of an SDXL U-Net module, numbered after the denoiser's own structure."""
    denoiser.get_submodule(name)
    return _sgm(name, Layout.of(cast("Any", denoiser).config)).replace(".", "_")


def _sgm(name: str, layout: Layout) -> str:
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    match = _INSIDE.fullmatch(name)
    if match is None:
        raise UserError(
            f"Module {name!r} has no name in kohya's SDXL format; leave it out of method.targets"
        )
    stage, down, up, kind, index, rest = match.groups()
    part, inner = int(index), rest or ""
    if kind == "resnets":
        head, _, tail = inner.partition(".")
        inner = ".".join(filter(None, [_RESNET.get(head, head), tail]))
    if stage == "mid_block":
        block = f"middle_block.{2 * part + (kind == 'attentions')}"
    elif down is not None:
        block = _down(int(down), kind, part, layout)
        inner = "op" if kind == "downsamplers" else inner
    else:
        block = _up(int(up), kind, part, layout)
    return f"{block}.{inner}" if inner else block


def _down(block: int, kind: str, part: int, layout: Layout) -> str:
    start = 1 + sum(count + 1 for count in layout.layers[:block])
    slot = layout.layers[block] if kind == "downsamplers" else part
    return f"input_blocks.{start + slot}.{int(kind == 'attentions')}"


def _up(block: int, kind: str, part: int, layout: Layout) -> str:
    layers = layout.layers[
        ::-1
    ]  # the up path mirrors the down path, with one layer more in each block
    start = sum(count + 1 for count in layers[:block])
    if kind == "upsamplers":
        return f"output_blocks.{start + layers[block]}.{1 + layout.up_attention[block]}"
    return f"output_blocks.{start + part}.{int(kind == 'attentions')}"
