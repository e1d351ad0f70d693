"""Train in several processes of one process group, without Ray: what a change of the number of workers does to a run."""

from __future__ import annotations

import multiprocessing
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raytrain.config import Config
from raytrain.configfile import parse
from raytrain.train import worker


def train(config: Config, world: int, folder: Path, until: int | None = None) -> None:
    """Train with so many processes; with `until` every one of them is gone when it begins that step."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["raytrain.families.sd15", "raytrain.methods.lora", "raytrain.train.worker"])
    store = folder / f"group-{len(list(folder.glob('group-*')))}"
    processes = [
        context.Process(target=_train, args=(config.values(), rank, world, str(store), until)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = {process.exitcode for process in processes}
    assert codes == {0 if until is None else 3}, codes


def _train(tree: dict[str, Any], rank: int, world: int, store: str, until: int | None) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"file://{store}", timedelta(seconds=120), world, rank)
    real = worker.optimizer_step

    def step(run: Any, *rest: Any) -> Any:
        if run.step == until:
            raise SystemExit(3)
        return real(run, *rest)

    worker.optimizer_step = step
    worker.train(parse(tree), rank=rank, world=world)
    if world > 1:
        dist.destroy_process_group()
