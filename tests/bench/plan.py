"""Is the plan true at the published sizes? What `plan` counts on `meta`, against the same step
computed: `python -m tests.bench.plan sd15 sdxl sd3`.

The folders have the published configs and no weights; random ones are computed with. Operations
are those of a whole step with recomputed blocks, so that it fits the memory of a laptop (with
`--device cuda` also of one without); activations are what autograd keeps in a forward pass without
recomputing, each dropped as soon as it is counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from raytrain.batch import Batch, Columns
from raytrain.config import Config
from raytrain.model import Model
from raytrain.train import cost
from raytrain.train.engines.speed import autocast
from tests.bench import published
from tests.bench.__main__ import machine

CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: (
        sdpa_flop_count(*shapes[:3])
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: (
        sdpa_backward_flop_count(*shapes[:4])
    ),
}
"""The fused attention of CPUs, which PyTorch's counter does not know."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.plan", description=__doc__)
    parser.add_argument("families", nargs="+", choices=published.PUBLISHED)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    options = parser.parse_args()
    for family in options.families:
        with tempfile.TemporaryDirectory(prefix="raytrain-plan-") as folder:
            published.write_folder(family, Path(folder))
            show(family, Path(folder), torch.device(options.device), options.precision)


def show(family: str, folder: Path, device: torch.device, precision: str) -> None:
    """Print what is counted, what is true, and their ratio."""
    side = published.SIDES[family]
    plain, lean = (
        published.config(family, folder, precision=precision, gradient_checkpointing=each)
        for each in (False, True)
    )
    counted, seconds = _timed(lambda: cost.step(plain, cost.skeleton(plain), side, side))
    again = cost.step(lean, cost.skeleton(lean), side, side)
    model = published.model(plain, device)
    rows = published.batch(plain, side, 1, device)
    draws = model.draw(rows).to(device)
    activations, forward = _timed(lambda: kept(plain, model, rows, draws))
    figures = [("activations, GiB", counted.activations / 2**30, activations / 2**30)]
    if device.type == "cuda":
        figures.append(("TFLOP", counted.flops / 1e12, operations(plain, model, rows, draws)))
    model.checkpoint_activations()
    flops, whole = _timed(lambda: operations(lean, model, rows, draws))
    figures.append(("TFLOP, blocks recomputed", again.flops / 1e12, flops))
    title = f"{family}, {side} px, LoRA, {precision}, one row"
    table = Table("", "plan", "computed", "ratio", title=title)
    for name, planned, computed in figures:
        table.add_row(name, f"{planned:.3f}", f"{computed:.3f}", f"{planned / computed:.4f}")
    table.add_row("seconds", f"{seconds:.1f}", f"{forward:.1f} and {whole:.1f}", "")
    where = torch.cuda.get_device_name() if device.type == "cuda" else machine()
    Console().print(table, where)


def kept(config: Config, model: Model, rows: Batch, draws: Columns) -> int:
    """Return the bytes that autograd keeps in a forward pass, weights left out."""
    # A weak reference lets go of the contents, but not of the address, which tells storages apart.
    weights = {tensor.untyped_storage()._cdata for tensor in model.state_dict().values()}
    seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def pack(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None)  # type: ignore[arg-type]
    with hooks, autocast(config.train, rows.weights.device):
        model(rows, draws)
    return sum(size for _, size in seen.values())


def operations(config: Config, model: Model, rows: Batch, draws: Columns) -> float:
    """Return the operations of a whole step in TFLOP."""
    with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
        with autocast(config.train, rows.weights.device):
            losses = model(rows, draws)
        losses.sum().backward()
    return counter.get_total_flops() / 1e12


def _timed(function: Any) -> tuple[Any, float]:
    begin = time.monotonic()
    return function(), time.monotonic() - begin


if __name__ == "__main__":
    main()
