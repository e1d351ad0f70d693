"""Train in several processes of one process group, without Ray:
what a change of the number of workers does to a run."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.errors import UserError
from raytrain.train import worker


def train(
    config: Config | Sequence[Config],
    world_size: int,
    folder: Path,
    *,
    until: int | None = None,
    before: Callable[[], None] | None = None,
    fails: str | None = None,
    code: int = 0,
) -> None:
    """Train configs, one after the other, with so many processes,
    all of which end with an exit code.

    With `until` each ends when it begins that step; `before` is called in every process first;
    `fails` is a part of the message of the UserError that training must end in.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "raytrain.train.worker",
            "diffusers.models.unets.unet_2d_condition",
            "diffusers.pipelines.stable_diffusion",
            "peft",
        ]
    )
    store = folder / f"group-{len(list(folder.glob('group-*')))}"
    trees = [each.values() for each in ([config] if isinstance(config, Config) else config)]
    processes = [
        context.Process(
            target=_train, args=(trees, rank, world_size, str(store), until, before, fails)
        )
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    codes = {process.exitcode for process in processes}
    assert codes == {code}, codes


class _Ended(Exception):  # noqa: N818
    """Stands in for processes that end between two steps."""


def _train(
    trees: list[dict[str, Any]],
    rank: int,
    world_size: int,
    store: str,
    until: int | None,
    before: Callable[[], None] | None,
    fails: str | None,
) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
    }  # what DeepSpeed asks for
    if world_size > 1:
        dist.init_process_group(
            "gloo", f"file://{store}", timedelta(seconds=120), world_size, rank
        )
    if before is not None:
        before()
    real = worker.optimizer_step

    def step(run: Any, *rest: Any) -> Any:
        if run.step == until:
            raise _Ended
        return real(run, *rest)

    worker.optimizer_step = step
    ends: tuple[type[Exception], ...] = (
        (_Ended,) if until is not None else (UserError,) if fails else ()
    )
    for tree in trees:
        try:
            worker.train(parse(tree), rank=rank, world_size=world_size)
        except ends as error:
            ended = str(error)
        else:
            ended = None
        assert (ended is not None) == bool(ends), ended
        assert fails is None or fails in str(ended), ended
    if world_size > 1:
        dist.destroy_process_group()
