"""An SDXL-size LoRA step on one GPU: `python -m tests.bench.gpu --peak-tflops 989`.

NOT RUN YET: no GPU was at hand. The U-Net of SDXL (2.57 G random weights, nothing is downloaded),
LoRA of rank 16, latents of 1024 pixels (128 x 128), bfloat16, batches of 1, 4 and 8, with and
without gradient checkpointing, through our own objective and engine. Printed are images per
second, peak memory and MFU: the FLOPs of forward and backward pass as PyTorch counts them,
recomputation not counted, over the time and the device's peak (--peak-tflops: dense bfloat16 of
the data sheet, 989 for an H100 SXM). A profile of the last case that fitted says where the rest
goes; --trace keeps it for chrome://tracing.

What is left out: reading batches and drawing noise, which a thread does beside the step. `--tiny
--device cpu` tests the script.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from raytrain import pretrained
from raytrain.batch import Batch, Columns
from raytrain.config import Config, ModelConfig, TrainConfig
from raytrain.methods.lora import Config as LoraConfig
from raytrain.model import Model
from raytrain.model import build as assemble
from raytrain.train.engines import engine as engines
from raytrain.train.engines import speed

COMMON: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
}
TINY: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 32, 64),
    "transformer_layers_per_block": (1, 1, 2),
    "cross_attention_dim": 80,
    "attention_head_dim": (2, 4, 4),
    "addition_time_embed_dim": 8,
    "norm_num_groups": 8,
    "projection_class_embeddings_input_dim": 48 + 6 * 8,
}
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}
RANK, TOKENS, WARM = 16, 77, 2
Step = Callable[[], object]


def main() -> None:
    """Measure every case and print."""
    options = arguments()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "error: this benchmark needs an NVIDIA GPU, and PyTorch sees none here. Run it on a "
            "machine with one and a CUDA build of PyTorch; `--tiny --device cpu` only tests the "
            "script.",
            file=sys.stderr,
        )
        sys.exit(2)
    shape = TINY if options.tiny else SDXL
    model = build(shape, device)
    flops = count_flops(step_of(model, shape, device, 1, False))
    figures, last = [], None
    for checkpointing in (False, True):
        for batch in options.batches:
            step = step_of(model, shape, device, batch, checkpointing)
            figure = measure(step, device, options.steps)
            if figure is not None:
                last = (batch, checkpointing)
                figure |= {
                    "images_per_second": batch / figure["seconds"],
                    "tflops": batch * flops / figure["seconds"] / 1e12,
                }
            figures.append({"batch": batch, "checkpointing": checkpointing, **(figure or {})})
    console = Console()
    console.print(table(figures, flops, device, options.peak_tflops))
    if last is not None:
        console.print(
            profiled(step_of(model, shape, device, *last), device, options.trace), markup=False
        )
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny U-Net: a test of the script, not a measurement"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument(
        "--peak-tflops",
        type=float,
        help="the device's dense bfloat16 peak; without it no MFU is given",
    )
    parser.add_argument("--trace", help="file to write the profile's trace to")
    parser.add_argument("--output", default="gpu.json")
    return parser.parse_args()


def build(shape: dict[str, Any], device: torch.device) -> Model:
    """Make a U-Net with frozen random bfloat16 weights and a LoRA that learns in float32,
    as a run holds them."""
    torch.manual_seed(0)
    with device:
        denoiser = UNet2DConditionModel(**COMMON, **shape)
    with tempfile.TemporaryDirectory() as folder:
        model = ModelConfig(family="sdxl", path=folder)
        config = Config(output="", model=model, method=LoraConfig(rank=RANK))
        vae = {
            "scaling_factor": 0.13025,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
        }
        for part, file, values in (
            ("vae", "config.json", vae),
            ("scheduler", "scheduler_config.json", SCHEDULE),
        ):
            (Path(folder) / part).mkdir()
            (Path(folder) / part / file).write_text(json.dumps(values))
        pretrained.vae_config(model)  # read once, remembered
        return assemble(
            config, device, load=lambda part: denoiser.to(torch.bfloat16).requires_grad_(False)
        )


def step_of(
    model: Model, shape: dict[str, Any], device: torch.device, batch: int, checkpointing: bool
) -> Step:
    """Return a function that does one optimizer step on random images through our objective and
    engine."""
    if checkpointing:
        model.checkpoint_activations()
    else:
        model.denoiser.disable_gradient_checkpointing()  # type: ignore[operator]
        model.eval()
    config = TrainConfig(
        global_batch=batch, precision="bf16", gradient_checkpointing=checkpointing
    )
    speed.prepare(model, config, device)
    engine = engines.build("plain", "none", model, config, batch, batch)
    side = shape["sample_size"]
    pooled = shape["projection_class_embeddings_input_dim"] - 6 * shape["addition_time_embed_dim"]
    with device:
        rows = Batch(
            ids=[str(number) for number in range(batch)],
            occurrences=[0] * batch,
            weights=torch.ones(batch),
            columns=Columns(
                {
                    "latents": torch.randn(batch, 8, side, side).half(),
                    "text": torch.randn(batch, TOKENS, shape["cross_attention_dim"]).half(),
                    "pooled": torch.randn(batch, pooled).half(),
                    "sizes": torch.tensor(
                        [[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]]
                    ).repeat(batch, 1),
                }
            ),
        )
    draws = model.draw(rows).to(device)

    def step() -> object:
        with torch.autocast(device.type, torch.bfloat16):
            losses = engine.model(rows, draws)
        loss = (losses * rows.weights).mean()
        engine.backward(loss)
        return engine.step(config.learning_rate, loss.detach(), 0)

    return step


def count_flops(step: Step) -> int:
    """Return the FLOPs of a step, as PyTorch counts those of matrix products,
    convolutions and attention."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def measure(step: Step, device: torch.device, steps: int) -> dict[str, float] | None:
    """Return seconds of a step and peak bytes (0 on a CPU); None where it does not fit."""
    cuda = device.type == "cuda"
    try:
        for _ in range(WARM):
            step()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    seconds = (time.perf_counter() - began) / steps
    return {
        "seconds": seconds,
        "peak_bytes": float(torch.cuda.max_memory_allocated()) if cuda else 0.0,
    }


def table(
    figures: list[dict[str, Any]], flops: int, device: torch.device, peak_tflops: float | None
) -> Table:
    """Return the figures as a table."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, a test of the script"
    title = f"{name}, torch {torch.__version__}, {flops / 1e12:.3g} TFLOP an image and step"
    grid = Table(
        "batch",
        "checkpointing",
        "ms a step",
        "images/s",
        "peak GiB",
        "TFLOP/s",
        "MFU",
        title=title,
    )
    for figure in figures:
        case = [str(figure["batch"]), "yes" if figure["checkpointing"] else "no"]
        if "seconds" not in figure:
            grid.add_row(*case, "does not fit")
            continue
        share = "" if peak_tflops is None else f"{figure['tflops'] / peak_tflops:.0%}"
        grid.add_row(
            *case, f"{1e3 * figure['seconds']:.1f}", f"{figure['images_per_second']:.2f}",
            f"{figure['peak_bytes'] / 2**30:.1f}", f"{figure['tflops']:.1f}", share,
        )  # fmt: skip
    return grid


def profiled(step: Step, device: torch.device, trace: str | None) -> str:
    """Profile three steps; returns the operators that take most time,
    and writes the trace where asked."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as profiler:
        for _ in range(3):
            step()
    if trace:
        profiler.export_chrome_trace(trace)
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    return str(
        profiler.key_averages().table(sort_by=order, row_limit=20, max_name_column_width=60)
    )


if __name__ == "__main__":
    main()
