"""kohya's LoRA file, which ComfyUI and the Stable Diffusion web UIs load: one safetensors named after the run.

Every module has `lora_unet_<name>.lora_down.weight`, `.lora_up.weight` and its own `.alpha`, kept in float32 so that
the scale alpha / rank is exact at any export precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from raytrain import storage
from raytrain.errors import UserError
from raytrain.export.bundle import Adapter, Bundle, write_safetensors


def write(bundle: Bundle, folder: str) -> list[str]:
    """Write `<folder>/<run name>.safetensors`."""
    adapters = bundle.adapters()
    if not adapters:
        raise UserError(
            f"Format 'kohya' holds a LoRA, but method {bundle.config.method.name!r} learned other weights; "
            'set export.formats = ["diffusers"], which writes a whole pipeline folder.'
        )
    tensors = _tensors(bundle, adapters)
    training = {key: _text(value) for key, value in _training(bundle, adapters).items()}
    header = {**bundle.header, **training, **_hashes(tensors, training)}
    return [write_safetensors(storage.join(folder, f"{bundle.name}.safetensors"), tensors, header)]


def _tensors(bundle: Bundle, adapters: Mapping[str, Adapter]) -> dict[str, Tensor]:
    denoiser = bundle.skeleton()
    tensors = {}
    prefix, rename = bundle.family.KOHYA[bundle.part]
    for module, adapter in adapters.items():
        name = f"{prefix}_{rename(module, denoiser)}"
        tensors[f"{name}.lora_down.weight"] = adapter.down
        tensors[f"{name}.lora_up.weight"] = adapter.up
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha, dtype=torch.float32)
    return tensors


def _training(bundle: Bundle, adapters: Mapping[str, Adapter]) -> dict[str, object]:
    config = bundle.config
    objective, train, side = config.objective, config.train, config.data.buckets.resolution
    ranks = {adapter.rank for adapter in adapters.values()}
    alphas = {adapter.alpha for adapter in adapters.values()}
    convolution = any(adapter.down.ndim == 4 and adapter.down.shape[-1] > 1 for adapter in adapters.values())
    network = {"conv_dim": str(max(ranks)), "conv_alpha": _text(max(alphas))} if convolution else {}
    values = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": ranks.pop() if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": alphas.pop() if len(alphas) == 1 else "Dynamic",
        "ss_network_args": json.dumps(network),
        "ss_base_model_version": bundle.family.KOHYA_BASE,
        "ss_v2": config.model.family == "sd2",
        "ss_sd_model_name": config.model.path.rstrip("/").rsplit("/", 1)[-1],
        "ss_new_sd_model_hash": bundle.header.get("raytrain.model_hash"),
        "ss_output_name": bundle.name,
        "ss_learning_rate": train.learning_rate,
        "ss_unet_lr": train.learning_rate,
        "ss_optimizer": train.optimizer,
        "ss_lr_scheduler": train.schedule,
        "ss_lr_warmup_steps": train.warmup,
        "ss_max_grad_norm": train.clip,
        "ss_total_batch_size": train.global_batch,
        "ss_gradient_checkpointing": train.gradient_checkpointing,
        "ss_mixed_precision": "bf16" if train.precision == "bf16" else "no",
        "ss_num_epochs": _epochs(bundle),
        "ss_steps": bundle.step,
        "ss_max_train_steps": train.steps,
        "ss_num_train_images": bundle.pictures,
        "ss_resolution": (side, side),
        "ss_enable_bucket": True,
        "ss_seed": config.seed,
        "ss_min_snr_gamma": objective.min_snr_gamma,
        "ss_noise_offset": objective.noise_offset,
        "ss_caption_dropout_rate": objective.caption_dropout,
        "ss_cache_latents": True,
        "ss_training_comment": f"raytrain {bundle.header['raytrain.version']}; its settings are in raytrain.config",
    }
    return {key: value for key, value in values.items() if value is not None}


def _epochs(bundle: Bundle) -> int | None:
    train = bundle.config.train
    if train.epochs is not None or train.steps is None:
        return train.epochs or 10
    return -(-bundle.step * train.global_batch // bundle.pictures) if bundle.pictures else None


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes by which web UIs recognise the file, computed as if it held the `ss_` metadata alone."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=dict(training))
    start = 8 + int.from_bytes(content[:8], "little")
    whole = hashlib.sha256(content[start:]).hexdigest()
    return {
        "sshs_model_hash": whole,
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
        "modelspec.hash_sha256": f"0x{whole}",
    }
