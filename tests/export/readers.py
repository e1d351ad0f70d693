"""How other programs apply an exported file, written after their documentation:
each returns the weights they would run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from raytrain import families
from raytrain.config import Config
from raytrain.export.bundle import Written
from tests.export.conftest import base_pipeline

Read = dict[str, Tensor]


def by_diffusers(written: list[Written], config: Config) -> Read:
    """Load what diffusers' format wrote as its lines say; a LoRA is fused."""
    found: Read = {}
    for each in written:
        path = Path(each.path)
        if path.name == "pytorch_lora_weights.safetensors":
            pipe = base_pipeline(config)
            pipe.load_lora_weights(str(path.parent), weight_name=path.name)
            found |= fused(pipe)
        elif path.name == "pipeline":
            from diffusers import DiffusionPipeline

            parts = DiffusionPipeline.from_pretrained(path).components.items()
            found |= {
                f"{part}.{name}": tensor
                for part, module in parts
                if isinstance(module, nn.Module)
                for name, tensor in module.state_dict().items()
            }
        elif path.is_dir():
            import diffusers

            kind = each.how_to_load[0].partition("diffusers.")[2].partition(".")[0]
            module = getattr(diffusers, kind).from_pretrained(path)
            found |= {
                f"{path.name}.{name}": tensor for name, tensor in module.state_dict().items()
            }
        else:
            part = path.stem.replace("learned_embeds", "text_encoder")
            found |= {f"{part} {word}": vectors for word, vectors in load_file(path).items()}
    return found


def fused(pipe: Any) -> Read:
    """Return the merged weights of all layers with an adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: Read = {}
    for part, module in pipe.components.items():
        for path, layer in module.named_modules() if isinstance(module, nn.Module) else ():
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                found[f"{part}.{path}.weight"] = layer.get_base_layer().weight.detach()
    return found


def by_lycoris(written: list[Written], config: Config) -> Read:
    """Apply kohya's file as LyCORIS does, layer by layer."""
    (one,) = written
    return apply(load_file(one.path), config, norm_of_updated=True)


def by_comfyui(written: list[Written], config: Config) -> Read:
    """Apply kohya's file as ComfyUI does."""
    (one,) = written
    return apply(load_file(one.path), config, norm_of_updated=False)


def alpha_over_rank(tensors: Mapping[str, Tensor]) -> float:
    """Return the factor of an update: alpha / rank, and 1 where no alpha is written or no factor
    has a rank."""
    ranked = ("lora_down.weight", "lora_A.weight", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
    rank = next((tensors[name].shape[0] for name in ranked if name in tensors), None)
    return float(tensors["alpha"]) / rank if "alpha" in tensors and rank is not None else 1.0


def apply(file: Mapping[str, Tensor], config: Config, *, norm_of_updated: bool) -> Read:
    """Return base weight plus update of every layer that kohya's names find;
    a key that finds none is an error."""
    names = kohya_names(config)
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.items():
        module, _, rest = key.partition(".")
        layers.setdefault(module, {})[rest] = tensor.float()
    found: Read = {}
    for module, tensors in layers.items():
        name, base = names[module]
        updated = base + alpha_over_rank(tensors) * delta(tensors).reshape(base.shape)
        if "dora_scale" in tensors:
            norms = (
                (updated if norm_of_updated else base)
                .flatten(1)
                .norm(dim=1)
                .reshape(tensors["dora_scale"].shape)
            )
            updated = updated * tensors["dora_scale"] / norms
        found[name] = updated
    return found


def delta(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return one layer's update before its factor, (out, ...), by LyCORIS' formulas."""
    if "lora_up.weight" in tensors:
        return tensors["lora_up.weight"].flatten(1) @ tensors["lora_down.weight"].flatten(1)
    if "hada_w1_a" in tensors:
        return half(tensors, "1") * half(tensors, "2")
    one = (
        tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    )
    if "lokr_w2" in tensors:
        two = tensors["lokr_w2"]
    elif "lokr_t2" in tensors:
        two = tucker(tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
    else:
        two = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
    return torch.kron(one.reshape(*one.shape, *(1,) * (two.ndim - 2)), two)


def half(tensors: Mapping[str, Tensor], number: str) -> Tensor:
    """Return one of LoHa's two matrices."""
    a, b = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
    return tucker(tensors[f"hada_t{number}"], a, b) if f"hada_t{number}" in tensors else a @ b


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a convolution's kernel from its core (r, r, k, k) and its two matrices (r, out),
    (r, in)."""
    return torch.einsum("ijkl,ip,jr->prkl", core, a, b)


def kohya_names(config: Config) -> dict[str, tuple[str, Tensor]]:
    """Return for each of kohya's layer names the public name of its weight and the base's
    value."""
    family = families.load(config.model.family)
    found = {}
    for part, (prefix, rename) in family.KOHYA.items():
        module: nn.Module = family.load(config.model, part, torch.float32)
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer_has_name(rename, path, module):
                name = f"{prefix}_{rename(path, module)}"
                assert name not in found, f"two layers are called {name}"
                found[name] = (f"{part}.{path}.weight", layer.weight.detach())
    return found


def layer_has_name(rename: Callable[[str, nn.Module], str], path: str, module: nn.Module) -> bool:
    """Tell whether kohya's format has a name for a layer."""
    from raytrain.errors import UserError

    try:
        rename(path, module)
    except UserError:
        return False
    return True


def embeddings(written: list[Written], config: Config) -> Read:
    """Read the files of words as the web UIs do: the file's name is the word,
    a key the encoder."""
    parts = {key: part for part, key in families.load(config.model.family).EMBEDDINGS.items()}
    found: Read = {}
    for each in written:
        found |= {
            f"{parts[key]} <{Path(each.path).stem}>": tensor
            for key, tensor in load_file(each.path).items()
        }
    return found


READERS: dict[str, Callable[[list[Written], Config], Read]] = {
    "diffusers": by_diffusers, "kohya": by_lycoris, "a1111": embeddings
}  # fmt: skip
"""One for each format."""
