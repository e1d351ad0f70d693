"""How well `tests.bench.step_model` predicts, where it can be checked:
`python -m tests.bench.simulate`.

Measured first: the steps of one worker alone, and gloo's all-reduce between two processes, small
(its latency) and large (its bandwidth). From these 1, 2 and 4 DDP workers on this machine's cores
are predicted, and then run: real training steps (loader, draws, step), each worker one process of
one thread with the same number of images, every weight learning. Rounds of all of it are taken in
turn, so that a machine that slows down does so for all; figures are medians over rounds.

Printed are predicted and measured steps a second with the relative error, and what the model says
of 8 to 1,024 workers that do not share cores, joined by a network of --bandwidth and --latency.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import timedelta
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder
from raytrain.train import worker
from raytrain.train.engines import memory
from raytrain.train.run import start
from tests.bench.__main__ import machine
from tests.bench.step_model import Network, Workload, predict

LOCAL = (1, 2, 4)
MANY = (8, 16, 32, 64, 128, 256, 512, 1024)
IMAGES = 8
"""Images of a worker's step."""
WARM = 3
"""First steps that are not counted."""
LARGE, SMALL = 4 * 2**20, 1
"""Values of the all-reduces that are timed."""
ENGINES = ("ddp", "zero2", "zero3")


def main() -> None:
    """Measure, predict, compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.simulate", description=__doc__)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--bandwidth",
        type=float,
        default=1.25e9,
        help="bytes a second; default: 10 Gbit/s Ethernet",
    )
    parser.add_argument("--latency", type=float, default=30e-6, help="seconds a message")
    parser.add_argument("--output", default="simulate.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raytrain-simulate-") as name:
        folder = Path(name)
        config = prepared(folder)
        rounds = [
            measure(config, folder / f"round-{number}", options.steps)
            for number in range(options.rounds)
        ]
    work, network, measured = median(rounds)
    console = Console()
    check, figures = compare(work, network, measured)
    console.print(check, machine())
    console.print(
        f"One worker: {work.seconds * 1e3:.1f} ms a step (deviation {work.deviation * 1e3:.1f} "
        f"ms, processor {work.processor * 1e3:.1f} ms); gloo: {network.bandwidth / 1e6:,.0f} "
        f"MB/s, {network.latency * 1e6:,.0f} us a message."
    )
    console.print(table(config, work, Network(options.bandwidth, options.latency)))
    Path(options.output).write_text(json.dumps(figures, indent=2) + "\n")


def prepared(folder: Path) -> Config:
    """Prepare a toy dataset of one bucket and return the settings of a run whose every weight
    learns."""
    from cluster.connect import connect

    draw_folder(folder / "images", 64, style="neon", seed=0)
    config = parse({
        "output": str(folder / "run"),
        "model": {"path": str(SD15)},
        "method": {"name": "full"},
        "data": {
            "source": str(folder / "images"),
            "dataset": str(folder / "dataset"),
            "held_out": 0.0,
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64]]},
        },
        "train": {"global_batch": IMAGES, "steps": 1},
        "log": {"tensorboard": False},
    })  # fmt: skip
    from raytrain.data.prepare import prepare

    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        prepare(config)
    return config


def measure(config: Config, folder: Path, steps: int) -> dict[str, Any]:
    """Measure one round: the network, and every number of local workers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["raytrain.families.sd15", "raytrain.methods.full", "raytrain.train.worker"]
    )
    folder.mkdir()
    times = {
        world_size: run(
            context, _train, world_size, folder / str(world_size), config.values(), steps
        )
        for world_size in LOCAL
    }
    small, large = run(context, _all_reduce, 2, folder / "gloo", config.values(), steps)[0]
    return {
        "steps": {
            world_size: max(statistics.fmean(rank["steps"]) for rank in ranks)
            for world_size, ranks in times.items()
        },
        "one": times[1][0],
        "small": small,
        "large": large,
    }


def run(
    context: ForkServerContext, target: Any, world_size: int, folder: Path, *arguments: Any
) -> list[Any]:
    """Run a function in so many processes of one group; returns what each wrote, by rank."""
    folder.mkdir()
    processes = [
        context.Process(target=target, args=(rank, world_size, str(folder), *arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"{target.__name__} on {world_size} workers failed; see above")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def median(rounds: list[dict[str, Any]]) -> tuple[Workload, Network, dict[int, float]]:
    """Return the medians over rounds: one worker, the network,
    and the seconds of a step by number of workers."""

    def middle(name: str) -> float:
        return statistics.median(one[name] for one in rounds)

    ones = [one["one"] for one in rounds]
    gradients = ones[0]["trainable"] * 4
    work = Workload(
        images=IMAGES,
        seconds=statistics.median(statistics.fmean(one["steps"]) for one in ones),
        deviation=statistics.median(statistics.stdev(one["steps"]) for one in ones),
        gradient_bytes=gradients,
        weight_bytes=gradients,
        processor=statistics.median(one["processor"] for one in ones),
    )
    # Two workers: an all-reduce sends (and waits for) one message each way, and its bytes once
    # over both.
    network = Network(
        bandwidth=(LARGE - SMALL) * 4 / (middle("large") - middle("small")),
        latency=middle("small") / 2,
        cores=len(os.sched_getaffinity(0)),
    )
    return (
        work,
        network,
        {
            world_size: statistics.median(one["steps"][world_size] for one in rounds)
            for world_size in LOCAL
        },
    )


def compare(
    work: Workload, network: Network, measured: dict[int, float]
) -> tuple[Table, list[dict[str, Any]]]:
    """Return predicted and measured steps a second, and their relative error."""
    columns = (
        "workers",
        "computing ms",
        "straggling ms",
        "communication ms",
        "predicted",
        "measured",
        "error",
    )
    check = Table(*columns, title=f"steps a second, DDP on {network.cores} shared cores")
    figures = []
    for world_size in LOCAL:
        found = predict(work, network, "ddp", world_size)
        error = measured[world_size] / found.seconds - 1
        parts = (
            f"{1e3 * part:.1f}" for part in (found.compute, found.straggling, found.communication)
        )
        check.add_row(
            str(world_size),
            *parts,
            f"{1 / found.seconds:.2f}",
            f"{1 / measured[world_size]:.2f}",
            f"{-error:+.1%}",
        )
        figures.append(
            {
                "workers": world_size,
                "predicted": 1 / found.seconds,
                "measured": 1 / measured[world_size],
            }
        )
    return check, figures


def table(config: Config, work: Workload, network: Network) -> Table:
    """Return the predictions for many workers."""
    title = (
        f"predicted: {network.bandwidth / 1e9:g} GB/s, {network.latency * 1e6:g} us a message, "
        "nothing hidden"
    )
    grid = Table(
        "workers",
        "engine",
        "ms a step",
        "images/s",
        "efficiency",
        "MB sent",
        "MiB of memory",
        title=title,
    )
    weights = work.weight_bytes // 4
    sizes = memory.Sizes(weights=weights, trainable=weights, frozen_bytes=0, activations=2**20)
    for workers in MANY:
        for engine in ENGINES:
            found = predict(work, network, engine, workers)
            held = memory.estimate(config, engine, "none", sizes, workers, 0) / 2**20
            grid.add_row(
                f"{workers:,}",
                engine,
                f"{1e3 * found.seconds:,.1f}",
                f"{found.images_per_second:,.0f}",
                f"{found.efficiency:.2f}",
                f"{found.sent / 1e6:.1f}",
                f"{held:.1f}",
            )
    return grid


def _join(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    if world_size > 1:
        dist.init_process_group(
            "gloo", f"file://{folder}/group", timedelta(seconds=120), world_size, rank
        )


def _train(rank: int, world_size: int, folder: str, tree: dict[str, Any], steps: int) -> None:
    """Take steps as one worker and write down how long each took,
    from the end of the one before."""
    _join(rank, world_size, folder)
    count = steps + WARM
    engine = "ddp" if world_size > 1 else "plain"
    train = {
        **tree["train"],
        "global_batch": IMAGES * world_size,
        "workers": world_size,
        "steps": count,
        "engine": engine,
    }
    own = start(parse({**tree, "output": f"{folder}/run", "train": train}), rank, world_size)
    ends: list[tuple[float, float]] = []
    real = worker.optimizer_step

    def step(*arguments: Any) -> Any:
        result = real(*arguments)
        ends.append((time.perf_counter(), time.process_time()))
        return result

    worker.optimizer_step = step
    worker.loop(own, hooks=[])
    ends = ends[WARM - 1 :]
    seconds = [after[0] - before[0] for before, after in itertools.pairwise(ends)]
    trainable = sum(weight.numel() for weight in own.denoiser.parameters() if weight.requires_grad)
    facts = {
        "steps": seconds,
        "processor": (ends[-1][1] - ends[0][1]) / len(seconds),
        "trainable": trainable,
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(facts))
    own.close()
    if world_size > 1:
        dist.destroy_process_group()


def _all_reduce(rank: int, world_size: int, folder: str, _: dict[str, Any], steps: int) -> None:
    """Time a small and a large all-reduce: the median of several."""
    _join(rank, world_size, folder)
    found = []
    for size in (SMALL, LARGE):
        values, times = torch.ones(size), []
        for _number in range(steps + WARM):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - began)
        found.append(statistics.median(times[WARM:]))
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
