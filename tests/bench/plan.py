"""Is the plan true at the published sizes? What `plan` counts on `meta`, against the same step
computed: `python -m tests.bench.plan sd15 sdxl sd3`.

The folders have the published configs and no weights; random ones are computed with. Operations
are those of a whole step with recomputed blocks, so that it fits the memory of a laptop;
activations are what autograd keeps in a forward pass without recomputing, each dropped as soon as
it is counted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import CLIPTextConfig, T5Config

from raytrain import families
from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.model import Model, build
from raytrain.train import cost
from tests.bench.__main__ import machine

CPU = torch.device("cpu")
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: (
        sdpa_flop_count(*shapes[:3])
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: (
        sdpa_backward_flop_count(*shapes[:4])
    ),
}
"""The fused attention of CPUs, which PyTorch's counter does not know."""
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
CLIP_L = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                        num_attention_heads=12, projection_dim=768)  # fmt: skip
CLIP_G = CLIPTextConfig(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
                        num_attention_heads=20, projection_dim=1280)  # fmt: skip
T5_XXL = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
                  feed_forward_proj="gated-gelu", is_encoder_decoder=False)  # fmt: skip
SIDES = {"sd15": 512, "sdxl": 1024, "sd3": 1024}
PUBLISHED: dict[str, dict[str, Any]] = {
    "sd15": {
        "text_encoder": CLIP_L,
        "unet": (UNet2DConditionModel, {
            "sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
        }),
    },
    "sdxl": {
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G,
        "unet": (UNet2DConditionModel, {
            "sample_size": 128, "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048, "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }),
    },
    "sd3": {
        "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL,
        "transformer": (SD3Transformer2DModel, {
            "sample_size": 128, "in_channels": 16, "out_channels": 16, "num_layers": 24,
            "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "pooled_projection_dim": 2048,
            "pos_embed_max_size": 192,
        }),
    },
}  # fmt: skip
"""Family -> part -> its published config (the models' folders on the hub)."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plan", description=__doc__)
    parser.add_argument("families", nargs="+", choices=PUBLISHED)
    for family in parser.parse_args().families:
        with tempfile.TemporaryDirectory(prefix="raytrain-plan-") as folder:
            show(family, Path(folder))


def write_folder(family: str, folder: Path) -> Path:
    """Write a model folder with the published configs, without weights."""
    families.load(family).tiny(str(folder))
    for part, published in PUBLISHED[family].items():
        shutil.rmtree(folder / part)
        if isinstance(published, tuple):
            kind, config = published
            with cost.META:
                kind(**config).save_config(folder / part)
        else:
            kind = json.loads((folder / "model_index.json").read_text())[part][1]
            published.architectures = [kind]
            published.save_pretrained(folder / part)
    vae = json.loads((folder / "vae/config.json").read_text())
    shutil.rmtree(folder / "vae")
    with cost.META:
        kept = ("latent_channels", "scaling_factor", "shift_factor",
                "use_quant_conv", "use_post_quant_conv")  # fmt: skip
        AutoencoderKL(**VAE, **{name: vae[name] for name in kept}).save_config(folder / "vae")
    return folder


def config(family: str, folder: Path, *, recompute: bool) -> Config:
    """Return the config of a LoRA."""
    return parse({
        "output": str(folder / "run"),
        "model": {"family": family, "path": str(folder)},
        "method": {"name": "lora", "rank": 16},
        "train": {"gradient_checkpointing": recompute},
    })  # fmt: skip


def show(family: str, folder: Path) -> None:
    """Print what is counted, what is true, and their ratio."""
    write_folder(family, folder)
    side = SIDES[family]
    plain, lean = (config(family, folder, recompute=each) for each in (False, True))
    counted, seconds = _timed(lambda: cost.step(plain, cost.skeleton(plain), side, side))
    again = cost.step(lean, cost.skeleton(lean), side, side)
    model = build(plain, CPU, load=partial(cost._part, families.load(family), plain))
    rows = _filled(cost.row(plain, side, side))
    draws = model.draw(rows)
    activations, forward = _timed(lambda: kept(model, rows, draws))
    flops, whole = _timed(lambda: operations(model, rows, draws))
    table = Table("", "plan", "computed", "ratio", title=f"{family}, {side} px, LoRA, one row")
    for name, planned, computed in (
        ("TFLOP, blocks recomputed", again.flops / 1e12, flops / 1e12),
        ("activations, GiB", counted.activations / 2**30, activations / 2**30),
    ):
        table.add_row(name, f"{planned:.3f}", f"{computed:.3f}", f"{planned / computed:.4f}")
    table.add_row("seconds", f"{seconds:.1f}", f"{forward:.1f} and {whole:.1f}", "")
    Console().print(table, machine())


def kept(model: Model, rows: Batch, draws: Columns) -> int:
    """Return the bytes that autograd keeps in a forward pass, weights left out."""
    # A weak reference lets go of the contents, but not of the address, which tells storages apart.
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):  # type: ignore[arg-type]
        model(rows, draws)
    return sum(size for _, size in seen.values())


def operations(model: Model, rows: Batch, draws: Columns) -> int:
    """Return the operations of a whole step whose blocks are recomputed."""
    for part in model.parts.values():
        if hasattr(part, "enable_gradient_checkpointing"):
            part.enable_gradient_checkpointing()
            part.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        model(rows, draws).sum().backward()
    return int(counter.get_total_flops())


def _filled(rows: Batch) -> Batch:
    """Return a batch with contents; no count depends on them."""
    columns = Columns({
        name: torch.zeros(column.shape, dtype=column.dtype)
        for name, column in rows.columns.items()
    })  # fmt: skip
    return Batch(rows.ids, rows.occurrences, torch.ones(1), columns)


def _timed(function: Any) -> tuple[Any, float]:
    begin = time.monotonic()
    return function(), time.monotonic() - begin


if __name__ == "__main__":
    main()
