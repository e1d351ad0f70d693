"""Which method and model an ai-toolkit process is, and the keys of its network and model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers import _usual
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    flag,
    none,
    number,
    same,
    whole,
)

P = "config.process[0]."


FULL = 10_000
"""A rank at which LoKr's second matrix is whole."""


TYPES = ("sd_trainer", "ui_trainer", "diffusion_trainer", "textual_inversion_trainer")


_ARCHES = {"sd1": "sd15", "sdxl": "sdxl", "sd3": "sd3"}


_FLAGS = {"is_xl": "sdxl", "is_v3": "sd3"}


_OTHERS = (
    "is_v2",
    "is_flux",
    "is_pixart",
    "is_pixart_sigma",
    "is_auraflow",
    "is_lumina2",
    "is_ssd",
    "is_vega",
)


def process(asked: Asked, key: str) -> Any:
    """Return what counts for a key of the process."""
    return asked.of(f"{P}{key}")


def method(asked: Asked) -> str:
    """Return the method of the process."""
    if any(key.startswith(f"{P}embedding.") for key in asked.given):
        return "textual_inversion"
    if any(key.startswith(f"{P}network.") for key in asked.given):
        return "lokr" if str(process(asked, "network.type")).lower() == "lokr" else "lora"
    return "full"


def _type(value: Any, asked: Asked) -> Said:
    missing = "" if value in TYPES else f"the process {value}"
    return Said({"method.name": method(asked)}, missing=missing)


def family_of(asked: Asked) -> str:
    """Return the model's architecture as it is called there."""
    arch = process(asked, "model.arch")
    if arch:
        return str(arch).partition(":")[0]
    named = [key for key in (*_FLAGS, *_OTHERS) if flag(process(asked, f"model.{key}") or False)]
    return next((key if key in _OTHERS else _FLAGS[key] for key in named), "sd1")


def _arch(value: Any, asked: Asked) -> Said:
    named = family_of(asked)
    ours = _ARCHES.get(named, named.removeprefix("is_"))
    missing = (
        "" if named in _ARCHES else f"the model {named.removeprefix('is_')}; it is no family here"
    )
    return Said({"model.family": ours}, missing=missing)


def _is(value: Any, asked: Asked) -> Said:
    return _arch(value, asked) if flag(value) else Said(note="off")


def _network(value: Any, asked: Asked) -> Said:
    kind = str(value).lower()
    if kind not in ("lora", "locon", "lokr", "lierla"):
        return Said(missing=f"the network {value}; the nearest is a LoRA")
    settings: dict[str, Any] = {"method.name": method(asked)}
    if family_of(asked) != "sd3":
        settings["method.targets"] = _usual.TRANSFORMER_LAYERS
    if kind == "lokr" and flag(process(asked, "network.lokr_full_rank") is not False):
        settings |= {"method.rank": FULL, "method.alpha": float(FULL)}
    return Said(settings, missing="linear layers outside of attention blocks, which learn too")


def _rank(key: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        if value is None or method(asked) not in ("lora", "lokr"):
            return Said(note="not set there")
        if method(asked) == "lokr" and process(asked, "network.lokr_full_rank") is not False:
            return Said(note="no effect there: lokr_full_rank")
        return Said({key: whole(value) if key.endswith("rank") else number(value)})

    return rule


def _lokr_factor(value: Any, asked: Asked) -> Said:
    return Said(note="as here") if whole(value) == -1 else Said({"method.factor": whole(value)})


def _text(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    if method(asked) != "lora":
        return Said(missing="text encoders that learn too; only method `lora` trains them")
    rank = whole(process(asked, "network.linear") or process(asked, "network.rank"))
    alpha = number(process(asked, "network.linear_alpha"))
    return Said({"method.text_rank": rank, "method.text_alpha": alpha,
                 "method.text_targets": _usual.TEXT_LAYERS})  # fmt: skip


def _quantize(value: Any, asked: Asked) -> Said:
    if not flag(value):
        return Said(note="off")
    kind = process(asked, "model.qtype") or "qfloat8"
    return Said(
        {"model.quantize": "int8"}, missing=f"the base in {kind}; written is the nearest, LLM.int8"
    )


RULES: Mapping[str, Rule] = {
    "type": _type,
    "network.type": _network,
    "network.linear": _rank("method.rank"),
    "network.rank": _rank("method.rank"),
    "network.linear_alpha": _rank("method.alpha"),
    "network.alpha": lambda value, asked: _rank("method.alpha")(
        process(asked, "network.linear_alpha"), asked
    ),
    "network.conv": _rank("method.conv_rank"),
    "network.conv_alpha": _rank("method.conv_alpha"),
    "network.lokr_full_rank": same("of type: lokr"),
    "network.lokr_factor": _lokr_factor,
    "network.dropout": none(
        "dropout in adapters; it would draw numbers that belong to a worker, not to a row"
    ),
    "network.transformer_only": same("blocks of the denoiser learn"),
    "network.network_kwargs": same("no arguments"),
    "network.network_kwargs.*": none("an argument of the network"),
    "network.pretrained_lora_path": none("starting from a trained LoRA"),
    "network.*": none("an argument of the network"),
    "adapter.*": none("adapters of images"),
    "slider.*": none("sliders"),
    "train.train_text_encoder": _text,
    "model.name_or_path": _usual.model,
    "model.arch": _arch,
    **{f"model.{key}": _is for key in (*_FLAGS, *_OTHERS)},
    "model.is_v_pred": lambda value, asked: Said(
        {"objective.prediction": "v_prediction"} if flag(value) else {}
    ),
    "model.vae_path": _usual.vae,
    "model.dtype": same("frozen weights are of the type of train.precision"),
    "model.quantize": _quantize,
    "model.quantize_te": none("text encoders in 8 bits; their output is stored before"),
    "model.qtype": same("of quantize"),
    "model.qtype_te": same("of quantize_te"),
    "model.low_vram": same("train.offload says what the host keeps"),
    "model.compile": To("train.compile", flag),
    "model.only_if_contains": none(
        "layers by a part of their name; name their endings in method.targets"
    ),
    "model.ignore_if_contains": none(
        "layers by a part of their name; name their endings in method.targets"
    ),
    **dict.fromkeys(
        (
            f"model.{key}"
            for key in (
                "refiner_name_or_path",
                "lora_path",
                "assistant_lora_path",
                "inference_lora_path",
                "unet_path",
                "te_name_or_path",
                "layer_offloading",
                "auto_memory",
                "split_model_over_gpus",
                "accuracy_recovery_adapter",
                "extras_name_or_path",
                "attn_masking",
                "model_kwargs",
            )
        ),
        none("this option of the model", off=(*OFF, {})),
    ),
}
