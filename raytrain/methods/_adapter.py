"""What methods share that put adapters of peft into frozen parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from raytrain.config import MethodConfig
from raytrain.errors import UserError
from raytrain.table import Names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.families import Family

ADAPTER = "default"
"""The name under which peft keeps an adapter; it is no part of a public name."""

_LEARNED = re.compile(r"([^.]+)\.(.+)\.((?:lora|hada|lokr)_\w+)(?:\.weight)?")


class AdapterConfig(MethodConfig):
    """Keys of every method whose updates are factors of the denoiser's weights."""

    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """Scale of the update is alpha / rank; default: rank, a scale of 1."""
    targets: Names = ()
    """Layer name endings; default: the family's attention projections."""
    conv_rank: int | None = Field(None, ge=1)
    """Convolutions of the residual blocks and samplers learn too, at this rank (LoCon); default:
    they do not."""
    conv_alpha: float | None = Field(None, gt=0)
    """Their update's scale is conv_alpha / conv_rank; default: conv_rank."""

    @model_validator(mode="after")
    def _used(self) -> AdapterConfig:
        if self.conv_alpha is not None and self.conv_rank is None:
            raise ValueError(
                f"conv_alpha = {self.conv_alpha} scales convolutions that do not learn; give "
                "conv_rank, or leave it out"
            )
        if getattr(self, "tucker", False) and self.conv_rank is None and not self.targets:
            raise ValueError(
                "tucker = true is for convolutions, and none learns; give conv_rank, or leave it "
                "out"
            )
        return self


def targets(part: nn.Module, asked: Sequence[str], own: Sequence[str], where: str) -> list[str]:
    """Return the endings of layer names that get an adapter: those requested at `where` in the
    config, else the family's.

    Raises UserError where no layer's name ends so.
    """
    modules = [name for name, _ in part.named_modules()]
    for target in asked:
        if not any(_ends(name, target) for name in modules):
            raise UserError(
                f"{where} must name layers of the {type(part).__name__}, got {target!r}, which no "
                "layer's name ends with; nothing would learn there. The family's own targets are "
                f"{', '.join(own)}."
            )
    return list(asked or own)


def denoiser_settings(
    part: nn.Module, name: str, family: Family, config: AdapterConfig
) -> dict[str, Any]:
    """Return what peft's configs of the denoiser share: rank and targets,
    and both for convolutions."""
    linear = targets(part, config.targets, family.LORA_TARGETS[name], "method.targets")
    shared = {"r": config.rank, "exclude_modules": unread(part, name, family)}
    if config.conv_rank is None:
        return {**shared, "target_modules": linear}
    convolutions = [re.escape(ending) for ending in _convolutions(family, name)]
    return {
        **shared,
        "target_modules": list(dict.fromkeys([*linear, *_convolutions(family, name)])),
        "rank_pattern": dict.fromkeys(convolutions, config.conv_rank),
        "alpha_pattern": dict.fromkeys(convolutions, config.conv_alpha or config.conv_rank),
    }


def unread(part: nn.Module, name: str, family: Family) -> str | None:
    """Return a pattern of the layers of a part whose output nothing reads,
    None where all are read."""
    known: Mapping[str, tuple[str, str]] = getattr(family, "UNREAD", {})
    if name not in known:
        return None
    path, layers = known[name]
    blocks: Any = part.get_submodule(path)
    return rf"{re.escape(path)}\.{len(blocks) - 1}\.{layers}"


def strength(layer: str, part: str, family: Family, config: AdapterConfig) -> tuple[float, int]:
    """Return alpha and rank of a denoiser's layer."""
    if config.conv_rank and any(_ends(layer, ending) for ending in _convolutions(family, part)):
        return float(config.conv_alpha or config.conv_rank), config.conv_rank
    return float(config.alpha or config.rank), config.rank


def inject(part: nn.Module, adapters: Any, seed: int) -> nn.Module:
    """Put trainable fp32 adapters of a peft config into a frozen part, in place;
    `seed` fixes their start."""
    import torch
    from peft import inject_adapter_in_model

    before = {id(weight) for weight in part.parameters()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(adapters, part, ADAPTER)
    for weight in part.parameters():
        weight.requires_grad_(id(weight) not in before)
        if weight.requires_grad:
            weight.data = weight.data.float()
    return part.eval()


def by_layer(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, dict[str, Tensor]]]:
    """Yield each layer's part, path and learned tensors by peft's names,
    from their public names."""
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _LEARNED.fullmatch(name)
        assert match is not None, f"{name} is no adapter's"
        part, layer, learned = match.groups()
        found.setdefault((part, layer), {})[learned] = tensor
    for (part, layer), tensors in found.items():
        yield part, layer, tensors


def refuse_quantized(part: nn.Module, method: str) -> None:
    """Raise UserError where peft has no such adapter for the part's quantized layers."""
    if getattr(part, "is_loaded_in_8bit", False) or getattr(part, "is_loaded_in_4bit", False):
        raise UserError(
            f"method.name = {method!r} cannot learn on quantized layers: it adds to the weight "
            'itself, which model.quantize packs into fewer bits. Set model.quantize = "none", or '
            'method.name = "lora".'
        )


def _convolutions(family: Family, part: str) -> Sequence[str]:
    found: Mapping[str, Sequence[str]] = getattr(family, "CONV_TARGETS", {})
    if part not in found:
        raise UserError(
            f"method.conv_rank lets convolutions learn, but the {part} of this family has none "
            "that adapters fit; nothing more would learn. Leave it out."
        )
    return found[part]


def _ends(layer: str, ending: str) -> bool:
    return layer == ending or layer.endswith(f".{ending}")
