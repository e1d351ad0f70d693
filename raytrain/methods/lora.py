"""LoRA: low-rank updates of the denoiser's linear layers, W + (alpha / rank) B A (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from raytrain.config import MethodConfig
from raytrain.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.families import Family

ADAPTER = "default"


class Config(MethodConfig):
    """`[method]` with `name = "lora"`."""

    name: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float | None = Field(None, gt=0)
    """Scale of the update is alpha / rank; default: rank, a scale of 1."""
    targets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Layer name endings; default: the family's attention projections."""
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """Start of A; B starts at zero, so that step 0 is the base model."""


def prepare(denoiser: nn.Module, family: Family, config: Config, seed: int) -> None:
    """Freeze the denoiser and inject trainable fp32 adapters in place; `seed` fixes A's start."""
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    denoiser.requires_grad_(False)
    targets = list(config.targets or family.LORA_TARGETS)
    modules = [name for name, _ in denoiser.named_modules()]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in modules):
            raise UserError(
                f"method.targets must name layers of the denoiser, got {target!r}, which no layer's name ends with; "
                f"nothing would learn there. The family's own targets are {', '.join(family.LORA_TARGETS)}."
            )
    layer = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha or config.rank,
        target_modules=targets,
        init_lora_weights="gaussian" if config.init == "gaussian" else True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(layer, denoiser, ADAPTER)
    for name, weight in denoiser.named_parameters():
        weight.requires_grad_("lora_" in name)
        if weight.requires_grad:
            weight.data = weight.data.float()


def state(denoiser: nn.Module) -> dict[str, Tensor]:
    """Return the adapters: `<layer>.lora_A.weight` (rank, in) and `<layer>.lora_B.weight` (out, rank)."""
    return {name: weight.detach() for name, weight in _adapters(denoiser)}


def load_state(denoiser: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy adapters into a prepared denoiser; UserError when they do not match it exactly."""
    own = dict(_adapters(denoiser))
    if own.keys() != tensors.keys() or any(own[k].shape != v.shape for k, v in tensors.items()):
        raise UserError(
            "The LoRA weights do not fit this model: rank, targets or the base differ from those they were trained with. "
            "Use the config kept beside the checkpoint."
        )
    for name, tensor in tensors.items():
        own[name].data.copy_(tensor)


def public_name(name: str) -> str:
    """Turn a parameter's name in the prepared denoiser into its name in checkpoints."""
    return name.replace(f".{ADAPTER}.", ".")


def scale(config: Config) -> float:
    """Return alpha / rank, the factor of the update."""
    return (config.alpha or config.rank) / config.rank


def facts(config: Config) -> dict[str, Any]:
    """Return what an export writes into its header."""
    return {"rank": config.rank, "alpha": config.alpha or config.rank}


def _adapters(denoiser: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, weight in denoiser.named_parameters():
        if "lora_" in name:
            yield public_name(name), weight
