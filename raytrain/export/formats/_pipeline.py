"""A whole pipeline's folder: the trained parts, and all else byte for byte from the base model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raytrain import pretrained, storage
from raytrain.artifacts import Weights
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle, write_safetensors

_NO_WEIGHTS_OF_OURS = (
    ".bin",
    ".ckpt",
    ".pt",
    ".pth",
    ".msgpack",
    ".h5",
    ".onnx",
    ".onnx_data",
    ".pb",
)
_PLAIN = re.compile(r"[\w-]+\.safetensors(\.index\.json)?")


def write(bundle: Bundle, learned: Sequence[Weights], path: str) -> str:
    """Write the folder and return its path."""
    with storage.atomic(path) as temporary:
        target = Path(temporary)
        index = _copy_parts(bundle, {weights.part for weights in learned}, target)
        for weights in learned:
            _write_part(bundle, weights, target / weights.part)
        (target / "model_index.json").write_text(
            json.dumps(index, indent=2) + "\n", encoding="utf-8"
        )
    return path


def _copy_parts(bundle: Bundle, learned: set[str], target: Path) -> dict[str, Any]:
    """Copy what did not learn, byte for byte, and return the pipeline's index."""
    model, family = bundle.config.model, bundle.family
    root = pretrained.folder(model)
    index = dict(pretrained.read_config(root, "model_index.json"))
    for name, value in list(index.items()):
        if (
            name.startswith("_")
            or not isinstance(value, list)
            or name in learned
            or value[0] is None
        ):
            continue
        source = root / name
        if name == "vae":
            other, part = pretrained.vae_source(model)
            source = other / part
        if source.is_dir():
            _copy(source, target / name, model.variant)
        elif name in family.PARTS:
            raise UserError(
                f"The base model {model.path!r} has no {name!r}, without which no pipeline can be "
                "written."
            )
        else:
            index[name] = [None, None]  # an optional part, such as the safety checker
    return index


def _copy(source: Path, target: Path, variant: str | None) -> None:
    """Copy a part's folder without pickles; of several weights take those that `variant` names,
    under plain names."""
    target.mkdir(parents=True)
    files = [
        file
        for file in source.iterdir()
        if file.is_file() and file.suffix not in _NO_WEIGHTS_OF_OURS
    ]
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


def _write_part(bundle: Bundle, learned: Weights, target: Path) -> None:
    model, part = bundle.config.model, learned.part
    tensors = {name: tensor.to(bundle.dtype) for name, tensor in learned.tensors.items()}
    if (
        tensors.keys() != bundle.skeleton(part).state_dict().keys()
    ):  # a part of it learned: the rest is the base model's
        tensors = bundle.family.load(model, part, bundle.dtype).state_dict() | tensors
    target.mkdir()
    shutil.copyfile(pretrained.folder(model) / part / "config.json", target / "config.json")
    write_safetensors(
        str(target / "diffusion_pytorch_model.safetensors"),
        tensors,
        {**bundle.header, "format": "pt"},
    )
