"""diffusers' own layout: a LoRA file, a pipeline folder for whole weights, a ControlNet's folder,
embeddings by their words.

A LoRA's scale is multiplied into its tensors: diffusers reads alpha from the file's metadata
(`lora_adapter_metadata`), others read none and take alpha for the rank, which it is here.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch import Tensor

from raytrain import families, storage
from raytrain.artifacts import Embeddings, LowRank, Module, Weights
from raytrain.export.bundle import Bundle, Written, write_safetensors
from raytrain.export.formats import _pipeline

TAKES = (LowRank, Weights, Embeddings, Module)
LORA_FILE = "pytorch_lora_weights.safetensors"
MODEL_FILE = "diffusion_pytorch_model.safetensors"


def write(bundle: Bundle, folder: str) -> list[Written]:
    """Write `<folder>/pytorch_lora_weights.safetensors`, `pipeline/`,
    `learned_embeds.safetensors` or the module's folder."""
    written = []
    if updates := bundle.of(LowRank):
        written.append(_write_lora(bundle, updates, folder))
    if weights := bundle.of(Weights):
        path = _pipeline.write(bundle, weights, storage.join(folder, "pipeline"))
        written.append(
            Written(path, (f'pipe = diffusers.DiffusionPipeline.from_pretrained("{path}")',))
        )
    written += [_write_module(bundle, module, folder) for module in bundle.of(Module)]
    written += [_write_embeddings(bundle, words, folder) for words in bundle.of(Embeddings)]
    return written


def _write_lora(bundle: Bundle, updates: list[LowRank], folder: str) -> Written:
    tensors = {}
    for update in updates:
        name = f"{update.part}.{families.published(update.layer)}"
        # The scale goes into the half that does not start at zero: small numbers lose digits at
        # half precision.
        tensors[f"{name}.lora_A.weight"] = (update.down * update.scale).to(bundle.dtype)
        tensors[f"{name}.lora_B.weight"] = update.up.to(bundle.dtype)
        if update.magnitude is not None:
            shape = (1, -1, 1, 1) if update.down.ndim == 4 else (-1,)
            # transformers' loader leaves a text encoder's norms without `.weight` at their start,
            # without a word.
            ending = "" if update.part == bundle.part else ".weight"
            tensors[f"{name}.lora_magnitude_vector{ending}"] = update.magnitude.reshape(shape).to(
                bundle.dtype
            )
    settings: dict[str, Any] = {}
    for part in dict.fromkeys(update.part for update in updates):
        own = _peft_settings([update for update in updates if update.part == part])
        settings |= {f"{part}.{key}": value for key, value in own.items()}
    header = {
        **bundle.header,
        "format": "pt",
        "lora_adapter_metadata": json.dumps(settings, sort_keys=True),
    }
    path = write_safetensors(storage.join(folder, LORA_FILE), tensors, header)
    base = f'pipe = diffusers.DiffusionPipeline.from_pretrained("{bundle.config.model.path}")'
    lines = [base, f'pipe.load_lora_weights("{folder}")']
    if bundle.part == "unet":
        lines.append(
            "ComfyUI and the web UIs do not know its names: give them the file of format kohya."
        )
    return Written(path, tuple(lines))


def _peft_settings(updates: list[LowRank]) -> dict[str, Any]:
    """Return the arguments of `peft.LoraConfig`: the commonest rank, the layers that differ,
    and alpha = rank for all."""
    rank = Counter(update.rank for update in updates).most_common(1)[0][0]
    others = {f"^{update.layer}": update.rank for update in updates if update.rank != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(update.layer for update in updates),
        "use_dora": updates[0].magnitude is not None,
    }


def _write_module(bundle: Bundle, module: Module, folder: str) -> Written:
    made: Any = bundle.structure().parts[module.part]
    path = storage.join(folder, module.part)
    with storage.atomic(path) as temporary:
        made.save_config(temporary)
        tensors = {name: tensor.to(bundle.dtype) for name, tensor in module.tensors.items()}
        write_safetensors(
            str(Path(temporary) / MODEL_FILE), tensors, {**bundle.header, "format": "pt"}
        )
    base, kind = bundle.config.model.path, type(made).__name__
    return Written(
        path,
        (
            f'{module.part} = diffusers.{kind}.from_pretrained("{path}")',
            f'pipe = diffusers.AutoPipelineForText2Image.from_pretrained("{base}", '
            f"{module.part}={module.part})",
            f"ComfyUI: copy {MODEL_FILE} to models/{module.part}.",
        ),
    )


def _write_embeddings(bundle: Bundle, words: Embeddings, folder: str) -> Written:
    ending = words.part.removeprefix("text_encoder")
    tensors: dict[str, Tensor] = {
        word: vectors.to(bundle.dtype) for word, vectors in words.vectors.items()
    }
    path = write_safetensors(
        storage.join(folder, f"learned_embeds{ending}.safetensors"), tensors, bundle.header
    )
    into = f"text_encoder=pipe.{words.part}, tokenizer=pipe.tokenizer{ending}"
    lines = []
    for word in words.vectors:
        state = f'{{"{word}": safetensors.torch.load_file("{path}")["{word}"]}}'
        lines.append(f"pipe.load_textual_inversion({state}, {into})")
    return Written(
        path,
        (
            f'pipe = diffusers.DiffusionPipeline.from_pretrained("{bundle.config.model.path}")',
            *lines,
        ),
    )
