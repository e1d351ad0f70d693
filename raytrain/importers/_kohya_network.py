"""Which method a script of sd-scripts is, and the keys of its network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.importers import _usual
from raytrain.importers._read import SCRIPT
from raytrain.importers._rules import OFF, Asked, Rule, Said, To, factor, flag, none, number, whole

SCRIPTS = {
    "train_network.py": ("sd15", "lora"),
    "fine_tune.py": ("sd15", "full"),
    "train_db.py": ("sd15", "full"),
    "train_textual_inversion.py": ("sd15", "textual_inversion"),
    "train_control_net.py": ("sd15", "controlnet"),
    "sdxl_train_network.py": ("sdxl", "lora"),
    "sdxl_train.py": ("sdxl", "full"),
    "sdxl_train_textual_inversion.py": ("sdxl", "textual_inversion"),
    "sdxl_train_control_net.py": ("sdxl", "controlnet"),
    "sd3_train_network.py": ("sd3", "lora"),
    "sd3_train.py": ("sd3", "full"),
}
"""Script -> family and method; a network's method is what its module says."""
OTHERS = (
    "flux",
    "lumina",
    "anima",
    "hunyuan",
    "sdxl_train_control_net_lllite",
    "train_controlnet.py",
)
"""How the names of scripts begin whose model or network has no equal."""
_LYCORIS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
_ADAPTERS = ("lora", "loha", "lokr")


def family(asked: Asked) -> str:
    """Return the family of the script, nothing where that is not known."""
    return SCRIPTS.get(str(asked.of(SCRIPT)), ("", ""))[0]


def method(asked: Asked) -> str:
    """Return the method of the script and its network module."""
    module = str(asked.of("network_module") or "")
    if module == "lycoris.kohya":
        return _LYCORIS.get(str(asked.of("network_args.algo") or "lora").lower(), "lora")
    return "lora" if module else SCRIPTS.get(str(asked.of(SCRIPT)), ("", "full"))[1]


def script(value: Any, asked: Asked) -> Said:
    """Say what a script trains."""
    if str(value) not in SCRIPTS:
        return Said(
            missing=f"the model or network that {value} trains; say which family with --family"
        )
    settings: dict[str, Any] = {"model.family": family(asked), "method.name": method(asked)}
    if method(asked) == "textual_inversion":
        settings["method.tokens"] = [str(asked.of("token_string") or "")]
    if value == "train_db.py" and asked.of("stop_text_encoder_training") != -1:
        return Said(
            settings,
            missing="the text encoder, which learns too; method `full` trains the denoiser",
        )
    return Said(settings)


def module(value: Any, asked: Asked) -> Said:
    """Say what a network module is."""
    settings: dict[str, Any] = {"method.name": method(asked)}
    # sd-scripts' LoRA of SD3 learns in the joint blocks' attention and feed-forward layers
    if family(asked) != "sd3":
        settings["method.targets"] = _usual.TRANSFORMER_LAYERS
    if value in ("networks.lora", "networks.lora_sd3"):
        missing = "feed-forward layers, which learn too" if family(asked) == "sd3" else ""
        return Said(settings, missing=missing)
    if value != "lycoris.kohya":
        return Said(settings, missing=f"{value}; the nearest is a LoRA")
    algo = str(asked.of("network_args.algo") or "lora").lower()
    if algo not in _LYCORIS:
        return Said(settings, missing=f"lycoris' algo = {algo!r}; the nearest is a LoRA")
    if asked.of("network_args.preset") not in (None, "full"):
        return Said(settings)
    rank, alpha = asked.of("network_dim"), asked.of("network_alpha")
    return Said(
        settings
        | {
            "method.conv_rank": whole(asked.of("network_args.conv_dim") or rank),
            "method.conv_alpha": number(asked.of("network_args.conv_alpha") or alpha),
        }
    )


def unet_only(value: Any, asked: Asked) -> Said:
    """Say whether text encoders learn; they do unless told otherwise."""
    if flag(value) or method(asked) not in _ADAPTERS:
        return Said(note="as here: text encoders do not learn unless method.text_rank is given")
    if asked.of("text_encoder_lr") in (0, "0", 0.0):
        return Said(note="text_encoder_lr = 0: text encoders do not learn")
    if method(asked) != "lora":
        return Said(
            missing=f"text encoders, which learn too; those of method `{method(asked)}` do not"
        )
    return Said(
        {
            "method.text_rank": whole(asked.of("network_dim")),
            "method.text_alpha": number(asked.of("network_alpha")),
            "method.text_targets": _usual.TEXT_LAYERS,
        }
    )


def unet_rate(asked: Asked) -> float:
    """Return the rate of the denoiser."""
    return number(asked.of("unet_lr") or asked.of("learning_rate"))


def text_rate(value: Any, asked: Asked) -> Said:
    """Return the text encoders' rate as a factor of the denoiser's."""
    rates = {number(each) for each in (value if isinstance(value, list) else [value])}
    if len(rates) != 1:
        return Said(missing=f"a rate for each text encoder, {value}; method.text_rate is one")
    rate = rates.pop()
    if not rate or flag(asked.of("network_train_unet_only") or False):
        return Said(note="text encoders do not learn")
    if method(asked) != "lora":
        return Said(missing="text encoders, which learn too; only method `lora` trains them")
    return Said({"method.text_rate": factor(rate, unet_rate(asked))})


def _alpha(value: Any, asked: Asked) -> Said:
    # 0 stands for the rank there
    return Said({"method.alpha": number(value) or number(asked.of("network_dim"))})


def _factor(value: Any, asked: Asked) -> Said:
    # -1 is the nearest to the root of a layer's size, as where method.factor is not set
    return Said(note="as here") if whole(value) == -1 else Said({"method.factor": whole(value)})


def _adapter(rule: Rule) -> Rule:
    """Return a rule that holds for adapters."""

    def apply(value: Any, asked: Asked) -> Said:
        return rule(value, asked) if method(asked) in _ADAPTERS else Said(note="of networks alone")

    return apply


_DROPOUT = none("dropout in adapters; it would draw numbers that belong to a worker, not to a row")
RULES: Mapping[str, Rule] = {
    SCRIPT: script,
    "network_module": module,
    "network_dim": _adapter(To("method.rank", whole)),
    "network_alpha": _adapter(_alpha),
    "network_dropout": _DROPOUT,
    "network_train_unet_only": unet_only,
    "network_train_text_encoder_only": none("training the text encoders alone"),
    "network_weights": none("starting from a trained LoRA"),
    "dim_from_weights": none("starting from a trained LoRA"),
    "base_weights": none("LoRAs merged into the base; merge them before"),
    "base_weights_multiplier": none("LoRAs merged into the base; merge them before"),
    "scale_weight_norms": none("a limit of the weights' norm"),
    "text_encoder_lr": text_rate,
    "network_args.algo": lambda value, asked: Said(note=f"method.name = {method(asked)!r}"),
    "network_args.conv_dim": To("method.conv_rank", whole),
    "network_args.conv_alpha": To("method.conv_alpha", number),
    "network_args.dropout": _DROPOUT,
    "network_args.rank_dropout": _DROPOUT,
    "network_args.module_dropout": _DROPOUT,
    "network_args.dora_wd": To("method.dora", flag),
    "network_args.use_tucker": To("method.tucker", flag),
    "network_args.use_cp": To("method.tucker", flag),
    "network_args.use_conv_cp": To("method.tucker", flag),
    "network_args.decompose_both": To("method.decompose_both", flag),
    "network_args.factor": _factor,
    "network_args.preset": none(
        "a preset of layers; name them in method.targets", off=(*OFF, "full")
    ),
    "network_args.*": none("an argument of the network"),
    "token_string": lambda value, asked: Said({"method.tokens": [str(value)]}),
    "init_word": To("method.init", str),
    "num_vectors_per_token": To("method.vectors", whole),
    "use_object_template": none("captions from a template; write them, with the word"),
    "use_style_template": none("captions from a template; write them, with the word"),
    "weights": none("starting from trained embeddings"),
    "controlnet_model_name_or_path": To("method.path", str),
}
DEFAULTS: Mapping[str, Any] = {
    "network_dim": 4,
    "network_alpha": 1,
    "network_train_unet_only": False,
}
