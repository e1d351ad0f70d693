"""kohya's and LyCORIS' file, which ComfyUI and the Stable Diffusion web UIs load:
one safetensors named after the run.

Every layer has `<prefix>_<name>.lora_down.weight`, `.lora_up.weight` (or LyCORIS' `.hada_*`,
`.lokr_*`) and its own `.alpha`, kept in float32 so that the scale alpha / rank is exact at any
export precision.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from raytrain import methods, storage
from raytrain.artifacts import Factors, Hadamard, Kronecker, LowRank, Update
from raytrain.errors import UserError
from raytrain.export.bundle import Bundle, Written, write_safetensors

Skeleton = Callable[[str], nn.Module]
TAKES = (LowRank, Hadamard, Kronecker)
_ALGORITHMS: dict[type[Update], str] = {LowRank: "locon", Hadamard: "loha", Kronecker: "lokr"}
"""As LyCORIS names them."""


def write(bundle: Bundle, folder: str) -> list[Written]:
    """Write `<folder>/<run name>.safetensors`."""
    updates = bundle.of(Update)
    skeleton = functools.cache(bundle.skeleton)
    tensors = _tensors(bundle, updates, skeleton)
    training = {key: _text(value) for key, value in _training(bundle, updates, skeleton).items()}
    header = {**bundle.header, **training, **_hashes(tensors, training)}
    path = write_safetensors(storage.join(folder, f"{bundle.name}.safetensors"), tensors, header)
    lines = [
        'ComfyUI: copy it to models/loras, add the node "Load LoRA" and choose '
        f"{bundle.name}.safetensors."
    ]
    if any(_magnitude(update) is not None for update in updates):
        lines.append(
            "It is a DoRA: LyCORIS applies it as it was trained; ComfyUI and Forge divide by the "
            "norms of the base's weights instead of the updated ones, so their images differ a "
            "little. diffusers does not read this file."
        )
    return [Written(path, tuple(lines))]


def _tensors(bundle: Bundle, updates: Sequence[Update], skeleton: Skeleton) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for update in updates:
        if update.part not in bundle.family.KOHYA:
            raise UserError(
                f"Format 'kohya' has no name for the {update.part} of a "
                f"{bundle.config.model.family} model, which learned; the file would lack it. Set "
                'export.formats = ["diffusers"].'
            )
        prefix, rename = bundle.family.KOHYA[update.part]
        name = f"{prefix}_{rename(update.layer, skeleton(update.part))}"
        found, alpha = _own(update)
        tensors |= {f"{name}.{key}": tensor.to(bundle.dtype) for key, tensor in found.items()}
        tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def _own(update: Update) -> tuple[dict[str, Tensor], float]:
    """Return one layer's tensors by kohya's or LyCORIS' names, and alpha."""
    if isinstance(update, Factors):
        # Alpha is not read where both Kronecker factors are whole, and LyCORIS multiplies the
        # scale in twice where it merges: in the first factor, with alpha = rank, it is right for
        # all.
        first = next(key for key in ("hada_w1_a", "lokr_w1", "lokr_w1_a") if key in update.tensors)
        return {**update.tensors, first: update.tensors[first] * update.scale}, float(update.rank)
    assert isinstance(update, LowRank)
    tensors = {"lora_down.weight": update.down, "lora_up.weight": update.up}
    if update.magnitude is not None:
        tensors["dora_scale"] = update.magnitude.reshape(-1, *(1,) * (update.down.ndim - 1))
    return tensors, update.alpha


def _magnitude(update: Update) -> Tensor | None:
    return update.magnitude if isinstance(update, LowRank) else None


def _training(bundle: Bundle, updates: Sequence[Update], skeleton: Skeleton) -> dict[str, object]:
    config = bundle.config
    objective, train, side = config.objective, config.train, config.data.buckets.resolution
    values = {
        **_network(updates, skeleton),
        "ss_base_model_version": bundle.family.KOHYA_BASE,
        "ss_v2": False,
        "ss_sd_model_name": storage.base_name(config.model.path),
        "ss_new_sd_model_hash": bundle.header.get("raytrain.model_hash"),
        "ss_output_name": bundle.name,
        "ss_learning_rate": train.learning_rate,
        "ss_unet_lr": train.learning_rate,
        "ss_text_encoder_lr": _text_rate(bundle, updates),
        "ss_optimizer": train.optimizer,
        "ss_lr_scheduler": train.lr_schedule,
        "ss_lr_warmup_steps": train.warmup,
        "ss_max_grad_norm": train.max_grad_norm,
        "ss_total_batch_size": train.global_batch,
        "ss_gradient_checkpointing": train.gradient_checkpointing,
        "ss_mixed_precision": "no" if train.precision == "fp32" else train.precision,
        "ss_num_epochs": _epochs(bundle),
        "ss_steps": bundle.step,
        "ss_max_train_steps": train.steps,
        "ss_num_train_images": bundle.images,
        "ss_resolution": (side, side),
        "ss_enable_bucket": True,
        "ss_seed": config.seed,
        "ss_min_snr_gamma": objective.min_snr_gamma,
        "ss_noise_offset": objective.noise_offset,
        "ss_caption_dropout_rate": objective.caption_dropout,
        "ss_cache_latents": True,
        "ss_training_comment": (
            f"raytrain {bundle.header['raytrain.version']}; its settings are in raytrain.config"
        ),
    }
    return {key: value for key, value in values.items() if value is not None}


def _network(updates: Sequence[Update], skeleton: Skeleton) -> dict[str, object]:
    """Return what kind of network the file holds, in kohya's words;
    convolutions are those of kernels above 1."""
    wide: list[Update] = []
    narrow: list[Update] = []
    for update in updates:
        weight: Any = skeleton(update.part).get_submodule(update.layer).weight
        (wide if weight.ndim > 2 and weight.shape[-1] > 1 else narrow).append(update)
    narrow = narrow or wide
    ranks, alphas = ({getattr(update, key) for update in narrow} for key in ("rank", "alpha"))
    arguments: dict[str, object] = {}
    if wide:
        arguments |= {"conv_dim": str(wide[0].rank), "conv_alpha": _text(wide[0].alpha)}
    algorithm = _ALGORITHMS[type(updates[0])]
    dora = any(_magnitude(update) is not None for update in updates)
    lycoris = algorithm != "locon" or dora
    if lycoris:
        arguments |= {"algo": algorithm} | ({"dora_wd": "True"} if dora else {})
    return {
        "ss_network_module": "lycoris.kohya" if lycoris else "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_network_args": json.dumps(arguments),
    }


def _text_rate(bundle: Bundle, updates: Sequence[Update]) -> float | None:
    """Return the learning rate of the text encoders, None where they did not learn."""
    parts = {update.part for update in updates} - {bundle.part}
    if not parts:
        return None
    groups = methods.load(bundle.config.method).groups(bundle.config.method)
    factors = [
        group.rate
        for prefix, group in groups.items()
        if any(part.startswith(prefix) for part in parts)
    ]
    return bundle.config.train.learning_rate * next(iter(factors), 1.0)


def _epochs(bundle: Bundle) -> int | None:
    train = bundle.config.train
    if train.epochs is not None or train.steps is None:
        return train.epochs or 10
    return -(-bundle.step * train.global_batch // bundle.images) if bundle.images else None


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes by which web UIs recognize the file, computed as if it held the `ss_`
    metadata alone."""
    content = save(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=dict(training)
    )
    start = 8 + int.from_bytes(content[:8], "little")
    whole = hashlib.sha256(content[start:]).hexdigest()
    return {
        "sshs_model_hash": whole,
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole}",
    }
