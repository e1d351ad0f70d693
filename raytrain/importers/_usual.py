"""Rules and facts that several trainers share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raytrain.config import SampleConfig
from raytrain.importers._rules import Asked, Rule, Said, listed, same, whole

ON_A_GPU: Mapping[str, tuple[Any, str]] = {
    "train.gpus_per_worker": (1, "it trains on a GPU"),
    "data.encode.gpus_per_worker": (1, "it encodes on a GPU"),
    "data.held_out": (0.0, "it trains on all images"),
}
PRECISION = {"no": "fp32", "fp32": "fp32", "float32": "fp32", "fp16": "fp16", "bf16": "bf16"}
SINGLE = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
TRANSFORMER_LAYERS = [
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
]  # fmt: skip
"""All linear layers and 1 x 1 convolutions of diffusers' Transformer2DModel."""
TEXT_LAYERS = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
"""Those of CLIPAttention and CLIPMLP."""
ATTENTION = same("attention is PyTorch's own")
CACHED = same("latents and text are always stored")
LAUNCHER: Mapping[str, Rule] = {
    "launcher.num_processes": lambda value, asked: Said({"train.workers": whole(value)}),
    "launcher.*": same("of the launcher; raytrain starts its workers itself"),
}


def model(value: Any, asked: Asked) -> Said:
    """Return the base model's path; a single file is not read."""
    if str(value).lower().endswith(SINGLE):
        return Said({"model.path": str(value)}, missing=f"models of one file; {CONVERT}")
    return Said({"model.path": str(value)})


CONVERT = "save it as a folder (diffusers: from_single_file, save_pretrained) and name that"


def vae(value: Any, asked: Asked) -> Said:
    """Return another VAE's path; a single file is not read."""
    if not value:
        return Said(note="not set there")
    missing = f"a VAE of one file; {CONVERT}" if str(value).lower().endswith(SINGLE) else ""
    return Said({"model.vae": str(value)}, missing=missing)


def prompts(value: Any, asked: Asked) -> Said:
    """Return the settings of prompts, all of which are drawn."""
    texts = listed(value)
    usual = SampleConfig.model_fields["max_prompts"].default
    return Said(
        {"sample.prompts": texts}
        | ({"sample.max_prompts": len(texts)} if len(texts) > usual else {})
    )


def report_to(value: Any, asked: Asked) -> Said:
    """Return the settings of trackers by name."""
    names = {name for each in listed(value) for name in each.replace(" ", "").split(",")}
    both = "all" in names
    settings = {
        "log.tensorboard": both or "tensorboard" in names,
        "log.wandb": "online" if both or "wandb" in names else "off",
    }
    others = sorted(names - {"all", "tensorboard", "wandb", "none"})
    return Said(settings, missing=f"the tracker {', '.join(others)}" if others else "")
