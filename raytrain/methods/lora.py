"""LoRA: low-rank updates of linear layers, W + (alpha / rank) B A
(Hu et al. 2021, arXiv:2106.09685).

With `conv_rank` also of convolutions (LoCon), with `text_rank` also of the text encoders, which
then run in every step, and with `dora` each row of the updated weight has a learned norm m: m (W +
BA) / |W + BA| (DoRA, Liu et al. 2024, arXiv:2402.09353).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raytrain import families
from raytrain.methods import _adapter
from raytrain.optimizers import Group
from raytrain.table import Names

if TYPE_CHECKING:
    from torch import Tensor, nn

    from raytrain.artifacts import LowRank
    from raytrain.families import Family

FREEZES_BASE = True
TINY = (
    {"rank": 4, "alpha": 2.0},
    {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0, "init": "gaussian"},
    {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0, "dora": True},
    {"rank": 4, "alpha": 2.0, "text_rank": 2, "text_alpha": 3.0, "text_rate": 0.5},
    {"rank": 4, "alpha": 2.0, "text_rank": 2, "dora": True},
)
_TEXT = "text_encoder"
"""Prefix of the folders of all text encoders."""


class Config(_adapter.AdapterConfig):
    """`[method]` with `name = "lora"`."""

    name: Literal["lora"] = "lora"
    init: Literal["kaiming", "gaussian"] = "kaiming"
    """Start of A; B starts at zero, so that step 0 is the base model."""
    dora: bool = False
    """Learn the norm of each row of the updated weights too."""
    text_rank: int | None = Field(None, ge=1)
    """The text encoders learn too, at this rank; default: they do not,
    and their output is read from the dataset."""
    text_alpha: float | None = Field(None, gt=0)
    """Scale of their update is text_alpha / text_rank; default: text_rank."""
    text_targets: Names = ()
    """Endings of their layers' names; default: the family's attention projections."""
    text_rate: float = Field(1.0, gt=0)
    """Factor on the learning rate for the text encoders."""

    @model_validator(mode="after")
    def _text_used(self) -> Config:
        keys = ("text_alpha", "text_targets", "text_rate")
        given = [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]
        if given and self.text_rank is None:
            raise ValueError(
                f"{', '.join(given)} would have no effect: text encoders learn where text_rank is "
                "given; give it too"
            )
        return self


def columns(family: Family, config: Config) -> tuple[str, ...]:
    """Return what training reads: latents, and encoded text,
    or tokens where text encoders learn."""
    return ("latents", "tokens" if config.text_rank else "text")


def build(
    load: Callable[[str], nn.Module], family: Family, config: Config, seed: int
) -> dict[str, nn.Module]:
    """Return the denoiser with trainable fp32 adapters, and all text encoders where those learn;
    `seed` fixes A's start."""
    name = families.denoiser(family)
    denoiser = load(name)
    settings = _adapter.denoiser_settings(denoiser, name, family, config)
    adapters = _config(config, lora_alpha=config.alpha or config.rank, **settings)
    parts = {name: _adapter.inject(denoiser, adapters, seed)}
    if config.text_rank:
        for number, encoder in enumerate(families.text_parts(family, "text"), start=1):
            own = family.LORA_TARGETS.get(encoder)
            parts[encoder] = load(encoder)
            if own:
                adapters = _text_config(parts[encoder], encoder, family, own, config)
                _adapter.inject(parts[encoder], adapters, seed + number)
    return parts


def groups(config: Config) -> dict[str, Group]:
    """Return the text encoders' own rate, where they learn."""
    return (
        {_TEXT: Group(rate=config.text_rate)} if config.text_rank and config.text_rate != 1 else {}
    )


def artifacts(state: Mapping[str, Tensor], config: Config, family: Family) -> list[LowRank]:
    """Return the low-rank updates, one of each layer."""
    from raytrain.artifacts import LowRank

    found = []
    for part, layer, tensors in _adapter.by_layer(state):
        text = float(config.text_alpha or config.text_rank or 0)
        alpha = (
            text if part.startswith(_TEXT) else _adapter.strength(layer, part, family, config)[0]
        )
        magnitude = tensors.get("lora_magnitude_vector")
        norms = None if magnitude is None else magnitude.flatten()
        found.append(LowRank(part, layer, alpha, tensors["lora_A"], tensors["lora_B"], norms))
    return found


def _config(config: Config, **settings: Any) -> Any:
    from peft import LoraConfig

    start: Any = "gaussian" if config.init == "gaussian" else True
    return LoraConfig(init_lora_weights=start, use_dora=config.dora, **settings)


def _text_config(
    part: nn.Module, name: str, family: Family, own: tuple[str, ...], config: Config
) -> Any:
    assert config.text_rank is not None
    return _config(
        config,
        r=config.text_rank,
        lora_alpha=config.text_alpha or config.text_rank,
        target_modules=_adapter.targets(part, config.text_targets, own, "method.text_targets"),
        exclude_modules=_adapter.unread(part, name, family),
    )
