"""laksjdjf/sd-trainer: a config in YAML, whole or an experiment that names what differs.

Source of keys and defaults: modules/config.py and conf/ of laksjdjf/sd-trainer; of what they do:
modules/trainer.py, modules/dataset.py and networks/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from raytrain.importers import _optimizers, _usual
from raytrain.importers._read import Document, flat
from raytrain.importers._rules import (
    OFF,
    Asked,
    Rule,
    Said,
    To,
    each,
    factor,
    flag,
    none,
    number,
    same,
    schedule,
    whole,
)

ASSUMED: Mapping[str, tuple[Any, str]] = {
    **_usual.ON_A_GPU,
    "train.max_grad_norm": (1e9, "it clips no gradient"),
}
FAMILIES = {"sd1": "sd15", "sdxl": "sdxl", "sd3": "sd3"}
_DTYPES = {"torch.float32": "fp32", "torch.bfloat16": "bf16", "torch.float16": "fp16"}


def recognizes(documents: Sequence[Document]) -> bool:
    """Tell whether a document has the tables `main` and `trainer`."""
    return any(
        isinstance(each.table.get("main"), dict) and isinstance(each.table.get("trainer"), dict)
        for each in documents
    )


def read(documents: Sequence[Document]) -> dict[str, Any]:
    """Return the keys; each of the groups that `defaults` chooses is a key of its own."""
    found: dict[str, Any] = {}
    for document in documents:
        tree = dict(document.table)
        groups = tree.pop("defaults", [])
        for group in groups if isinstance(groups, list) else [groups]:
            named = group if isinstance(group, dict) else {str(group): True}
            for name, value in named.items():
                found[f"defaults.{name.removeprefix('override').strip().lstrip('/')}"] = value
        found |= flat(tree)
    return found


def defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults: for an experiment those of conf/, else those of the code."""
    found: dict[str, Any] = {
        "main.seed": 4545,
        "main.save_epochs": 1,
        "main.sample_epochs": 1,
        "trainer.lr_scheduler": "constant",
        "trainer.lr_warmup_ratio": 0.05,
        "trainer.optimizer.module": "torch.optim.AdamW",
        "trainer.validation_num_samples": 4,
        "trainer.validation_seed": 4545,
        "dataset.args.ucg": 0.0,
        "dataset.args.batch_size": 1,
        "dataset.args.metadata": "buckets.json",
    }
    if _adapts(given):
        found |= {"network.args.module_args.rank": 4, "network.args.module_args.alpha": 1}
    if not any(key.startswith("defaults.") for key in given):
        return found | {"main.model_type": "sdxl" if given.get("main.sdxl") else "sd1"}
    found |= {
        "main.output_path": "output",
        "defaults.model": "sdxl",
        "defaults.network": "lora",
        "trainer.lr": 1e-3,
        "trainer.lr_scheduler": "cosine",
        "trainer.weight_dtype": "torch.bfloat16",
        "trainer.validation_num_samples": 2,
        "trainer.validation_args.width": 832,
        "trainer.validation_args.height": 1216,
        "trainer.validation_args.guidance_scale": 7.0,
        "dataset.args.ucg": 0.1,
    }
    return found | ({"network.args.conv_module_args.same": True} if _adapts(given) else {})


def _adapts(given: Mapping[str, Any]) -> bool:
    """Return whether a network learns."""
    if any(key.startswith("network.") for key in given):
        return given.get("network.train") is not False
    chosen = any(key.startswith("defaults.") for key in given)
    return chosen and given.get("defaults.network", "lora") not in (None, "none")


def _method(asked: Asked) -> str:
    if flag(asked.of("controlnet.train") or False):
        return "controlnet"
    return "lora" if _adapts(asked.given) else "full"


def _family(value: Any, asked: Asked) -> Said:
    settings: dict[str, Any] = {
        "model.family": FAMILIES.get(str(value), str(value)),
        "method.name": _method(asked),
    }
    if settings["method.name"] == "lora":
        settings["method.targets"] = _usual.TRANSFORMER_LAYERS if value != "sd3" else []
    missing = "" if str(value) in FAMILIES else f"the model {value}; it is no family here"
    return Said({key: each for key, each in settings.items() if each}, missing=missing)


def _group(value: Any, asked: Asked) -> Said:
    return Said(note="a group of its own conf/") if value else Said()


def _network(value: Any, asked: Asked) -> Said:
    return Said({"method.name": _method(asked)}, note="a group of its own conf/" if value else "")


def _module(value: Any, asked: Asked) -> Said:
    known = str(value).endswith("LoRAModule")
    return Said(
        {"method.name": "lora"}, missing="" if known else f"{value}; the nearest is a LoRA"
    )


def _alpha(key: str, rank: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        # None and 0 stand for the rank there
        return Said({key: number(value or asked.of(asked.beside + rank) or 4)})

    return rule


def _conv(value: Any, asked: Asked) -> Said:
    rank = whole(value)
    alpha = asked.of("network.args.conv_module_args.alpha")
    return Said(
        {
            "method.conv_rank": rank,
            "method.conv_alpha": number(1 if alpha is None else alpha or rank),
        }
    )


def _conv_same(value: Any, asked: Asked) -> Said:
    if not flag(value) or asked.of("network.args.conv_module_args.rank"):
        return Said(note="their own")
    return _conv(asked.of("network.args.module_args.rank"), asked)


def _text(value: Any, asked: Asked) -> Said:
    rank = whole(value)
    alpha = asked.of("network.args.text_module_args.alpha")
    return Said({"method.text_rank": rank, "method.text_targets": _usual.TEXT_LAYERS,
                 "method.text_alpha": number(1 if alpha is None else alpha or rank)})  # fmt: skip


def _text_same(value: Any, asked: Asked) -> Said:
    return _text(asked.of("network.args.module_args.rank"), asked) if flag(value) else Said()


def _class(module: Any) -> str:
    """Return an optimizer's class by the name that `_optimizers` knows, or its dotted path."""
    known = ("AdamW", "AdamW8bit", "Prodigy", "Lion")
    name = str(module).rpartition(".")[2]
    if name == "Adafactor" and str(module).startswith("transformers."):
        return _optimizers.TRANSFORMERS_ADAFACTOR
    return name if name in known else str(module)


def _optimizer(value: Any, asked: Asked) -> Said:
    start = "trainer.optimizer.args."
    names = [key.removeprefix(start) for key in asked.given if key.startswith(start)]
    return _optimizers.chosen(_class(value), names)


def _option(value: Any, asked: Asked) -> Said:
    module = _class(asked.of("trainer.optimizer.module"))
    return _optimizers.option(asked.key.rpartition(".")[2], value, module)


def _rate(value: Any, asked: Asked) -> Said:
    return Said({"train.learning_rate": number(value)})


def _text_rate(value: Any, asked: Asked) -> Said:
    if value is None or not any(
        key.startswith("network.args.text_module_args.") for key in asked.given
    ):
        return Said(note="text encoders do not learn")
    return Said({"method.text_rate": factor(value, asked.of("trainer.lr"))})


def _warmup(value: Any, asked: Asked) -> Said:
    if asked.of("trainer.lr_scheduler") == "constant":
        return Said(note="no effect there: the schedule `constant` has no warm-up")
    return Said({"train.warmup": f"{number(value) * 100:g} %"})


def _timesteps(value: Any, asked: Asked) -> Said:
    old = asked.of("trainer.step_range")
    low, high = (
        str(old).split(",")
        if old
        else (asked.of("trainer.min_t") or 0, asked.of("trainer.max_t") or 1)
    )
    return Said({"objective.timestep_range": [number(low), number(high)]})


def _precision(value: Any, asked: Asked) -> Said:
    if asked.key.endswith("weight_dtype") and asked.of("trainer.autocast_dtype"):
        return Said(note="frozen weights are of the type of autocast here")
    if not value:
        return Said(note="not set there")
    return To("train.precision", each(_DTYPES))(value, asked)


def _train_dtype(value: Any, asked: Asked) -> Said:
    if value in ("torch.float32", "torch.bfloat16"):
        nearest = {"train.rounding": "nearest"} if value == "torch.bfloat16" else {}
        return Said({"train.param_dtype": _DTYPES[value], **nearest})
    return Said(missing=f"weights that learn in {value}")


def _epochs(key: str) -> Rule:
    def rule(value: Any, asked: Asked) -> Said:
        if value is None or asked.of(asked.key.replace("_epochs", "_steps")):
            return Said(note="steps count there")
        return Said({key: f"{whole(value)} epochs"})

    return rule


def _prompt(value: Any, asked: Asked) -> Said:
    if str(value).endswith(".txt"):
        return Said(
            {"sample.prompt_file": str(value)}, note="each line is a prompt here, all of it there"
        )
    return Said({"sample.prompts": [str(value)]})


def _negative(value: Any, asked: Asked) -> Said:
    if str(value).endswith(".txt"):
        return Said(missing="a negative prompt in a file; write it into sample.negative_prompt")
    return Said({"sample.negative_prompt": str(value)})


def _beside(key: str, kind: str, usual: str) -> Rule:
    """Return the rule of a folder in the data set's own."""

    def rule(value: Any, asked: Asked) -> Said:
        if not value:
            return Said(note="off")
        folder = PurePath(str(asked.of("dataset.args.path"))) / (
            usual if value is True else str(value)
        )
        return Said({f"data.subsets[0].{key}": folder.as_posix(), kind: "folder"})

    return rule


_BUCKETED = "files of its preprocessing; raytrain prepare makes its own from the images"
RULES: Mapping[str, Rule] = {
    "defaults.model": _family,
    "defaults.network": _network,
    "defaults.*": _group,
    "main.model_type": _family,
    "main.sdxl": lambda value, asked: _family("sdxl" if flag(value) else "sd1", asked),
    "main.model_path": _usual.model,
    "main.output_path": To("output", str),
    "main.seed": To("seed", whole),
    "main.revision": To("model.revision", str),
    "main.variant": To("model.variant", str),
    "main.torch_dtype": same("weights are read in the type they train in"),
    "main.nf4": lambda value, asked: Said({"model.quantize": "nf4"} if flag(value) else {}),
    "main.taesd": none("a small VAE for images"),
    "main.clip_skip": none("an earlier layer of the text encoder", off=(*OFF, 1, -1)),
    "main.steps": To("train.steps", whole),
    "main.epochs": lambda value, asked: (
        Said(note="steps count there")
        if asked.of("main.steps")
        else To("train.epochs", whole)(value, asked)
    ),
    "main.save_steps": To("train.checkpoint_every", whole),
    "main.save_epochs": _epochs("train.checkpoint_every"),
    "main.sample_steps": To("train.sample_every", whole),
    "main.sample_epochs": _epochs("train.sample_every"),
    "main.log_level": same("prints more or less"),
    "main.wandb": lambda value, asked: Said(
        {"log.wandb": "online", "log.project": str(value)} if value else {}
    ),
    "trainer.module": none("another trainer", off=(*OFF, "modules.trainer.BaseTrainer")),
    "trainer.train_unet": same("whether a network or the denoiser learns is method.name"),
    "trainer.train_text_encoder": none(
        "text encoders that learn as a whole; method `lora` has text_rank"
    ),
    "trainer.te_device": same("text is stored before"),
    "trainer.vae_device": same("latents are stored before"),
    "trainer.train_dtype": _train_dtype,
    "trainer.weight_dtype": _precision,
    "trainer.autocast_dtype": _precision,
    "trainer.vae_dtype": same("data.encode.precision is fp32 unless set"),
    "trainer.lr": _rate,
    "trainer.text_lr": _text_rate,
    "trainer.lr_scheduler": schedule("trainer.lr_scheduler"),
    "trainer.lr_warmup_ratio": _warmup,
    "trainer.noise_offset": To("objective.noise_offset", number),
    "trainer.min_t": _timesteps,
    "trainer.max_t": _timesteps,
    "trainer.step_range": _timesteps,
    "trainer.gradient_checkpointing": To("train.gradient_checkpointing", flag),
    "trainer.convrot": none('a base in 8 bits, rotated; model.quantize = "int8" is the nearest'),
    "trainer.optimizer.module": _optimizer,
    "trainer.optimizer.args": same("no arguments"),
    "trainer.optimizer.args.*": _option,
    "trainer.merging_loras": none("LoRAs merged into the base; merge them before"),
    "trainer.validation_num_samples": To("sample.images_per_prompt", whole),
    "trainer.validation_seed": To("sample.seed", whole),
    "trainer.validation_args.prompt": _prompt,
    "trainer.validation_args.negative_prompt": _negative,
    "trainer.validation_args.width": To("sample.width", whole),
    "trainer.validation_args.height": To("sample.height", whole),
    "trainer.validation_args.guidance_scale": To("sample.guidance_scale", number),
    "trainer.validation_args.num_inference_steps": To("sample.steps", whole),
    "trainer.validation_args.*": none("an argument of its sampler"),
    "trainer.additional_conf*": none("an argument of another trainer", off=(*OFF, {})),
    "dataset.module": none("another data set", off=(*OFF, "modules.dataset.BaseDataset")),
    "dataset.args.batch_size": To("train.global_batch", whole),
    "dataset.args.path": To("data.subsets[0].source", str, "captions are read beside the images"),
    "dataset.args.metadata": lambda value, asked: Said(
        {"data.buckets.resolution": 1024},
        note="that of `preprocess buckets` unless told otherwise",
    ),
    "dataset.args.original_size": same(_BUCKETED),
    "dataset.args.latent": same(_BUCKETED),
    "dataset.args.text_emb": same(_BUCKETED),
    "dataset.args.image": none(
        "images in a folder of the data set's; give it as the source", off=(*OFF, True)
    ),
    "dataset.args.caption": none("captions in a folder of their own; ours are beside the images"),
    "dataset.args.control": _beside("controls", "data.controls.kind", "control"),
    "dataset.args.mask": _beside("masks", "data.masks.kind", "mask"),
    "dataset.args.prompt": To("data.subsets[0].prefix", str, "the caption of every image"),
    "dataset.args.prefix": To("data.subsets[0].prefix", str),
    "dataset.args.shuffle": same("batches differ from epoch to epoch"),
    "dataset.args.ucg": To("objective.caption_dropout", number),
    "dataloader.*": same("batches are made ahead by themselves"),
    "network": _network,
    "network.module": none(
        "another manager of networks", off=(*OFF, "networks.manager.NetworkManager")
    ),
    "network.train": same("method.name is lora where it learns"),
    "network.resume": none("starting from a trained LoRA"),
    "network.args.module": _module,
    "network.args.file_name": none("starting from a trained LoRA"),
    "network.args.unet_key_filters": none(
        "layers by a pattern; name their endings in method.targets"
    ),
    "network.args.module_args.rank": To("method.rank", whole),
    "network.args.module_args.alpha": _alpha("method.alpha", "rank"),
    "network.args.module_args.forward_mode": same("how the same sum is made"),
    "network.args.conv_module_args.rank": _conv,
    "network.args.conv_module_args.alpha": _alpha("method.conv_alpha", "rank"),
    "network.args.conv_module_args.same": _conv_same,
    "network.args.text_module_args.rank": _text,
    "network.args.text_module_args.alpha": _alpha("method.text_alpha", "rank"),
    "network.args.text_module_args.same": _text_same,
    "network.args.conv_module_args": same("convolutions do not learn"),
    "network.args.text_module_args": same("text encoders do not learn"),
    "network.args.*": none("an argument of the network"),
    "controlnet": same("off"),
    "controlnet.train": lambda value, asked: Said({"method.name": _method(asked)}),
    "controlnet.resume": To("method.path", str),
    "controlnet.transformer_layers_per_block": none("another shape of the branch"),
    "controlnet.global_average_pooling": none("a mean over the branch's outputs"),
    "hydra.*": same("where Hydra keeps its logs"),
}
