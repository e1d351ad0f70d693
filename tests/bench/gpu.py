"""A LoRA step of the published sizes on one GPU: `python -m tests.bench.gpu sdxl sd3`.

Random weights (nothing is downloaded), LoRA of rank 16, bfloat16, batches of 1, 4 and 8, with and
without gradient checkpointing, through our own objective and engine. Printed are images per
second, peak memory beside what `raytrain plan` says, and MFU: the operations of forward and
backward pass as the plan counts them, recomputation not counted, over the time and the device's
peak (--peak-tflops: dense bfloat16 of the data sheet, 989 for an H100 SXM). --profile says where
the time of the last case that fitted goes; --trace keeps it for chrome://tracing.

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
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from raytrain import families
from raytrain.config import Config
from raytrain.train import cost
from raytrain.train.engines import engine as engines
from raytrain.train.engines import memory, speed
from raytrain.train.engines.speed import autocast, deterministic
from tests.bench import published

WARM = 3
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
    figures = []
    for family in options.families:
        with tempfile.TemporaryDirectory(prefix="raytrain-gpu-") as name:
            figures += measure_family(family, Path(name), device, options)
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("families", nargs="+", choices=published.PUBLISHED)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model: a test of the script, not a measurement"
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--side", type=int, help="of the images; default: the family's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quantize", default="none", choices=("none", "int8", "nf4"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--nondeterministic", action="store_true")
    parser.add_argument(
        "--checkpointing", default="both", choices=("both", "yes", "no"), help="which cases"
    )
    parser.add_argument(
        "--peak-tflops",
        type=float,
        help="the device's dense bfloat16 peak; without it no MFU is given",
    )
    parser.add_argument("--profile", action="store_true", help="of the last case that fitted")
    parser.add_argument("--trace", help="file to write the profile's trace to")
    parser.add_argument("--output", default="gpu.json")
    return parser.parse_args()


def measure_family(
    family: str, folder: Path, device: torch.device, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure and print every case of a family."""
    if options.tiny:
        families.load(family).tiny(str(folder))
    else:
        published.write_folder(family, folder)
    side = options.side or (64 if options.tiny else published.SIDES[family])
    found, last, flops = [], None, 0
    for checkpointing in {"both": (False, True), "yes": (True,), "no": (False,)}[
        options.checkpointing
    ]:
        for batch in options.batches:
            config = published.config(
                family, folder, {"quantize": options.quantize}, precision="bf16",
                global_batch=batch, gradient_checkpointing=checkpointing, compile=options.compile,
                deterministic=not options.nondeterministic,
            )  # fmt: skip
            skeleton = cost.skeleton(config)
            weights, row = cost.weights(config, skeleton), cost.step(config, skeleton, side, side)
            sizes = memory.Sizes(
                weights.all, weights.trainable, weights.frozen_bytes, row.activations
            )
            flops = flops or row.flops  # of the first case: nothing is recomputed
            figure = measure(lambda c=config: step_of(c, side, device), device, options.steps)
            if figure is not None:
                last = config
                figure |= {
                    "planned_bytes": memory.estimate(config, "plain", "none", sizes, 1, batch),
                    "images_per_second": batch / figure["seconds"],
                    "tflops": batch * flops / figure["seconds"] / 1e12,
                }
            found.append({
                "family": family, "side": side, "batch": batch, "checkpointing": checkpointing,
                **(figure or {}),
            })  # fmt: skip
    console = Console(width=120)
    console.print(table(found, flops, device, options))
    if last is not None and (options.profile or options.trace):
        step = step_of(last, side, device)
        console.print(profiled(step, device, options.trace), markup=False, soft_wrap=True)
    return found


def step_of(config: Config, side: int, device: torch.device) -> Step:
    """Return a function that does one optimizer step on random images through our objective and
    engine, of a model with random weights, as a run holds them."""
    torch.manual_seed(0)
    model, batch = published.model(config, device), config.train.global_batch
    speed.prepare(model, config.train, device)
    if config.train.gradient_checkpointing:
        model.checkpoint_activations()
    engine = engines.build("plain", "none", model, config.train, batch, batch)
    rows = published.batch(config, side, batch, device)
    draws = model.draw(rows).to(device)

    def step() -> object:
        with deterministic(config.train, device):
            with autocast(config.train, device):
                losses = engine.model(rows, draws)
            loss = (losses * rows.weights).mean()
            engine.backward(loss)
        return engine.step(config.train.learning_rate, loss.detach(), 0)

    return step


def measure(
    build: Callable[[], Step], device: torch.device, steps: int
) -> dict[str, float] | None:
    """Return seconds of a step and peak bytes (0 on a CPU); None where it does not fit."""
    cuda = device.type == "cuda"
    try:
        step = build()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):
            step()
        if cuda:
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(steps):
            step()
        if cuda:
            torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return None
    finally:
        step = None  # its model goes before the next comes
        if cuda:
            torch.cuda.empty_cache()
    seconds = (time.perf_counter() - began) / steps
    return {
        "seconds": seconds,
        "peak_bytes": float(torch.cuda.max_memory_allocated()) if cuda else 0.0,
    }


def table(
    figures: list[dict[str, Any]], flops: int, device: torch.device, options: argparse.Namespace
) -> Table:
    """Return the figures of a family as a table."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, a test of the script"
    first = figures[0]
    title = (
        f"{first['family']}, {first['side']} px, base {options.quantize}, compile "
        f"{options.compile}, deterministic {not options.nondeterministic}; {name}, torch "
        f"{torch.__version__}; {flops / 1e12:.3g} TFLOP an image"
    )
    columns = ("batch", "checkpointing", "ms a step", "images/s", "peak GiB", "planned GiB")
    grid = Table(*columns, "TFLOP/s", "MFU", title=title)
    for figure in figures:
        case = [str(figure["batch"]), "yes" if figure["checkpointing"] else "no"]
        if "seconds" not in figure:
            grid.add_row(*case, "does not fit")
            continue
        peak = options.peak_tflops
        grid.add_row(
            *case, f"{1e3 * figure['seconds']:.1f}", f"{figure['images_per_second']:.2f}",
            *(f"{figure[each] / 2**30:.1f}" for each in ("peak_bytes", "planned_bytes")),
            f"{figure['tflops']:.1f}", "" if peak is None else f"{figure['tflops'] / peak:.0%}",
        )  # fmt: skip
    return grid


def profiled(step: Step, device: torch.device, trace: str | None) -> str:
    """Profile three steps; returns the operators that take most time,
    and writes the trace where asked."""
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    step()
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
