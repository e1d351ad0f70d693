"""Where a model's files are, and the hashes that make them content: a local folder, a hub id or a
folder on an object store, alike."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain import mirror, storage
from raytrain.config import ModelConfig
from raytrain.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:-\d+-of-\d+)?(?:\.(\w+))??(?:-\d+-of-\d+)?\.safetensors"
)
"""Names of weights: the first group is the variant, None for the plain ones."""
READ = ("*.json", "*.txt", "*.model")
"""Files of a hub model that are read next to its weights."""
WEIGHT_SUFFIXES = (".safetensors", ".json", ".txt", ".model")


@functools.cache
def resolve(path: str, revision: str | None = None, variant: str | None = None) -> Path:
    """Return the local folder of a model: the folder itself, or a hub id's snapshot
    (downloaded once, then offline; of its weights, those of the variant alone), or the copy of a
    folder on an object store."""
    if not storage.is_local(path):
        if revision is not None:
            raise UserError(
                f"revision = {revision!r} is a branch, tag or commit of a hub id, and {path!r} is "
                "a folder on a store; it would have no effect. Leave it out."
            )
        return Path(mirror.local(path, (*READ, *weight_files(variant))))
    if Path(path).is_dir():
        if revision is not None:
            raise UserError(
                f"revision = {revision!r} is a branch, tag or commit of a hub id, and {path!r} is "
                "a folder here; it would have no effect. Leave it out, or give the hub id."
            )
        return Path(path)
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(
            f"model path {path!r} is no folder here and no hub id (owner/name). "
            "Give the path of a folder in diffusers layout, or a hub id."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                path, revision=revision, allow_patterns=[*READ, *weight_files(variant)]
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model {path!r} is no folder here, and the hub could not give it: "
            f"{str(error).splitlines()[0]} Give the path of a local folder, or make the hub "
            "reachable."
        ) from error


def weight_files(variant: str | None) -> list[str]:
    """Return patterns of the weights that diffusers and transformers load of a variant.

    A repository also holds other variants, and whole models in one file, several times as large.
    """
    dot, shard = f".{variant}" if variant else "", "-?????-of-?????"
    names = [
        f"{name}{ending}.safetensors"
        for name in ("model", "diffusion_pytorch_model")
        for ending in (dot, f"{shard}{dot}", *([f"{dot}{shard}"] if dot else []))
    ]
    return [*(f"*/{name}" for name in names), *names]


def folder(model: ModelConfig) -> Path:
    """Return the local folder of the base model."""
    return resolve(model.path, model.revision, model.variant)


def vae_source(model: ModelConfig) -> tuple[Path, str]:
    """Return the folder to load the VAE from and its sub-folder: the model's own,
    or `model.vae`."""
    if model.vae is None:
        return folder(model), "vae"
    other = resolve(model.vae, None, model.variant)
    return other, "vae" if (other / "vae").is_dir() else ""


def check_parts(model: ModelConfig, parts: Sequence[str]) -> None:
    """Raise UserError unless the model folder holds every part its family needs,
    and a scheduler."""
    root, wanted = folder(model), (*parts, "scheduler")
    missing = [
        name
        for name in wanted
        if not (name == "vae" and model.vae) and not any((root / name).glob("*.json"))
    ]
    if missing:
        raise UserError(
            f"A {model.family} model folder must hold {', '.join(wanted)}; {str(root)!r} lacks "
            f"{', '.join(missing)}. Nothing can be encoded or trained with it; give a whole model "
            "in diffusers layout"
            + (", or set model.vae to a VAE's folder." if "vae" in missing else ".")
        )
    if model.weights == "pretrained":
        for name in parts:
            where, part = vae_source(model) if name == "vae" else (root, name)
            _check_weights(where / part, model.variant)


def check_whole(file: Path) -> None:
    """Raise UserError where a safetensors file is cut short or is none; reads its header alone."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        with file.open("rb") as stream:
            pointer = stream.read(18) == b"version https://gi"
        why = (
            "only names a file of Git LFS, which was not fetched (git lfs pull)"
            if pointer
            else f"is no whole safetensors file: {error}"
        )
        raise UserError(
            f"{str(file)!r} {why}. Nothing could be loaded from it; download it again."
        ) from None


def _check_weights(part: Path, variant: str | None) -> None:
    """Raise UserError where a part has weights, but none of the variant that is to be loaded,
    or one of its files is not whole."""
    found = {
        match[1] for file in part.glob("*.safetensors") if (match := _WEIGHTS.fullmatch(file.name))
    }
    if not found or variant in found:
        for file in sorted(part.glob("*.safetensors")):
            if (match := _WEIGHTS.fullmatch(file.name)) and match[1] == variant:
                check_whole(file)
        return
    others = ", ".join(repr(each) for each in sorted(filter(None, found)))
    rule = f"has no weights of model.variant = {variant!r}" if variant else "has only variants"
    remedy = f"Set model.variant to {others}" if others else "Leave model.variant out"
    rule += f": {others}" if others else ""
    raise UserError(f"{str(part)!r} {rule}. Nothing could be loaded. {remedy}.")


def vae_config(model: ModelConfig) -> dict[str, Any]:
    """Return the VAE's config, the model's own or that of `model.vae`."""
    root, name = vae_source(model)
    return read_config(root / name, "config.json")


def scheduler_config(model: ModelConfig) -> dict[str, Any]:
    """Return the config of the model's own sampler."""
    return read_config(folder(model), "scheduler", "scheduler_config.json")


def scheduler_named(known: Mapping[str, Any], name: str, model: ModelConfig) -> Any:
    """Return a family's sampler by its config name; UserError names those it has."""
    if name not in known:
        raise UserError(
            f"sample.scheduler = {name!r} does not fit a {model.family} model; its images would "
            f"be noise. Use {', '.join(known)}."
        )
    return known[name]


def skeleton(model: ModelConfig, part: str) -> nn.Module:
    """Return a part's structure, from its config alone; on the `meta` device,
    if that is the context, without weights."""
    root, name = vae_source(model) if part == "vae" else (folder(model), part)
    tree = read_config(root / name, "config.json")
    if "_class_name" in tree:
        import diffusers

        built: nn.Module = getattr(diffusers, tree["_class_name"]).from_config(tree)
        return built
    import transformers

    kind = getattr(transformers, tree["architectures"][0])
    whole: nn.Module = kind(kind.config_class.from_pretrained(root / name))
    return whole


def quantized(denoiser: nn.Module, model: ModelConfig) -> nn.Module:
    """Exchange a denoiser's linear layers for quantized ones, in place,
    where `model.quantize` asks for it."""
    if model.quantize != "none":
        from raytrain.quantize import (
            quantize,
        )  # two seconds of imports that only a quantized base needs

        quantize(denoiser, model.quantize)
    return denoiser


def vae_hash(model: ModelConfig) -> str:
    """Return the content hash of the VAE's weights and config."""
    root, name = vae_source(model)
    return _hash_folders(root, (name,))


def hash_of(model: ModelConfig, parts: Sequence[str]) -> str:
    """Return the content hash of some parts' weights and configs."""
    return _hash_folders(folder(model), tuple(parts))


@functools.lru_cache(maxsize=64)
def read_config(root: Path, *parts: str) -> dict[str, Any]:
    """Return a component's JSON config, which callers must not change."""
    tree: dict[str, Any] = json.loads(root.joinpath(*parts).read_text())
    return tree


@functools.cache
def _hash_folders(root: Path, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for name in names:
        for file in sorted((root / name).glob("*")):
            if file.suffix in WEIGHT_SUFFIXES:
                digest.update(f"{name}/{file.name}\0".encode())
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
