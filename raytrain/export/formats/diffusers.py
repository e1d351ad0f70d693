"""diffusers' own layout: a LoRA as `pytorch_lorapretrained.safetensors`, whole weights as a pipeline folder.

diffusers reads a LoRA's alpha from the file's metadata (`lora_adapter_metadata`) and without it assumes alpha = rank,
so the metadata is what makes alpha exact.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from raytrain import pretrained, storage
from raytrain.errors import UserError
from raytrain.export.bundle import DOWN, UP, Adapter, Bundle, write_safetensors

LORA_FILE = "pytorch_lorapretrained.safetensors"
PIPELINE = "pipeline"
_NO_WEIGHTS_OF_OURS = (".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb")
_PLAIN = re.compile(r"[\w-]+\.safetensors(\.index\.json)?")


def write(bundle: Bundle, folder: str) -> list[str]:
    """Write `<folder>/pytorch_lorapretrained.safetensors`, or the pipeline folder `<folder>/pipeline`."""
    adapters = bundle.adapters()
    return [_write_lora(bundle, adapters, folder) if adapters else _write_pipeline(bundle, folder)]


def _write_lora(bundle: Bundle, adapters: dict[str, Adapter], folder: str) -> str:
    prefix = bundle.part
    tensors = {}
    for module, adapter in adapters.items():
        tensors[f"{prefix}.{module}{DOWN}"] = adapter.down
        tensors[f"{prefix}.{module}{UP}"] = adapter.up
    settings = {f"{prefix}.{key}": value for key, value in _peft_settings(adapters).items()}
    header = {**bundle.header, "format": "pt", "lora_adapter_metadata": json.dumps(settings, sort_keys=True)}
    return write_safetensors(storage.join(folder, LORA_FILE), tensors, header)


def _peft_settings(adapters: dict[str, Adapter]) -> dict[str, Any]:
    """Return the arguments of `peft.LoraConfig`: the commonest rank and alpha, and the modules that differ."""
    rank = Counter(adapter.rank for adapter in adapters.values()).most_common(1)[0][0]
    alpha = Counter(adapter.alpha for adapter in adapters.values()).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{name}": a.rank for name, a in adapters.items() if a.rank != rank},
        "alpha_pattern": {f"^{name}": a.alpha for name, a in adapters.items() if a.alpha != alpha},
        "target_modules": sorted(adapters),
    }


def _write_pipeline(bundle: Bundle, folder: str) -> str:
    path = storage.join(folder, PIPELINE)
    with storage.atomic(path) as temporary:
        target = Path(temporary)
        index = _copy_parts(bundle, target)
        _write_denoiser(bundle, target / bundle.part)
        (target / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return path


def _copy_parts(bundle: Bundle, target: Path) -> dict[str, Any]:
    """Copy what did not learn, byte for byte, and return the pipeline's index."""
    model, family = bundle.config.model, bundle.family
    root = pretrained.folder(model)
    index = pretrained.read_config(root, "model_index.json")
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or name == bundle.part or value[0] is None:
            continue
        source = root / name
        if name == "vae":
            other, part = pretrained.vae_source(model)
            source = other / part
        if source.is_dir():
            _copy(source, target / name, model.variant)
        elif name in family.PARTS:
            raise UserError(f"The base model {model.path!r} has no {name!r}, without which no pipeline can be written.")
        else:
            index[name] = [None, None]  # an optional part, such as the safety checker
    return index


def _copy(source: Path, target: Path, variant: str | None) -> None:
    """Copy a part's folder without pickles; of several weights take those that `variant` names, under plain names."""
    target.mkdir(parents=True)
    files = [file for file in source.iterdir() if file.is_file() and file.suffix not in _NO_WEIGHTS_OF_OURS]
    weights = [file for file in files if ".safetensors" in file.name]
    tag = f".{variant}"
    chosen = [file for file in weights if variant and tag in file.name]
    chosen = chosen or [file for file in weights if _PLAIN.fullmatch(file.name)] or weights
    for file in files:
        if file in chosen and variant and tag in file.name:
            new = target / file.name.replace(tag, "")
            if file.suffix == ".json":
                new.write_text(file.read_text(encoding="utf-8").replace(tag, ""), encoding="utf-8")
            else:
                shutil.copyfile(file, new)
        elif file in chosen or file not in weights:
            shutil.copyfile(file, target / file.name)


def _write_denoiser(bundle: Bundle, target: Path) -> None:
    weights = dict(bundle.weights)
    expected = bundle.skeleton().state_dict()
    strange = sorted(weights.keys() - expected.keys())
    if strange:
        raise UserError(
            f"Method {bundle.config.method.name!r} learned weights that are no part of the {bundle.part} "
            f"(the first is {strange[0]!r}); diffusers has no layout for them."
        )
    if weights.keys() != expected.keys():  # the method learned a part: the rest is the base model's
        base = bundle.family.load(bundle.config.model, bundle.part, bundle.dtype).state_dict()
        weights = base | weights
    os.makedirs(target)
    source = pretrained.folder(bundle.config.model) / bundle.part / "config.json"
    shutil.copyfile(source, target / "config.json")
    header = {**bundle.header, "format": "pt"}
    write_safetensors(str(target / "diffusion_pytorch_model.safetensors"), weights, header)
