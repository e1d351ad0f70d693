"""A training step through the platform against a bare PyTorch loop of the same mathematics on the
same model and batch shapes.

`train_step`: the whole step. `loader_headroom`: batches and draws alone, against ten times the
bare loop's speed: at a ratio of 1 and more, training ten times faster would not wait for them.
`metrics`: the step of a run in a Ray that shows its metrics to Prometheus, against one with
`log.metrics` off.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig

from raytrain.config.file import parse
from raytrain.data.prepare import prepare
from raytrain.toy import SD15
from raytrain.toy.draw import draw_folder
from raytrain.train import worker
from raytrain.train.hooks import periodic
from raytrain.train.run import Run, start

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
BATCH = 8


def setup(folder: Path, quick: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two functions, each measuring steps per second: ours (loader, draws, step, metrics)
    and the bare loop."""
    steps = 4 if quick else 80
    begin = _runs(folder, quick)
    shapes = _shapes(begin(steps))

    def ours() -> float:
        run = begin(steps)
        began = time.perf_counter()
        worker.loop(run, hooks=[])
        seconds = time.perf_counter() - began
        run.close()
        return steps / seconds

    return ours, lambda: _bare(shapes)


def setup_headroom(folder: Path, quick: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two functions measuring steps per second: batches and draws made without training,
    and 10 times the bare loop."""
    steps, made = (4, 8) if quick else (40, 800)
    begin = _runs(folder, quick)
    shapes = _shapes(begin(steps))

    def ours() -> float:
        run = begin(made)
        began = time.perf_counter()
        count = sum(1 for _ in worker.batches(run))
        seconds = time.perf_counter() - began
        run.close()
        return count / seconds

    return ours, lambda: 10 * _bare(shapes)


def setup_metrics(folder: Path, quick: bool) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return two functions measuring steps per second of a run in a Ray, logging every step: with
    its metrics shown, and without."""
    from cluster.connect import connect

    steps = 4 if quick else 160  # some ten seconds: gauges are set every five
    begin = _runs(folder, quick)

    def speed(metrics: bool) -> float:
        with connect("local", num_cpus=1, object_store_mb=100, log_to_driver=False):
            run = begin(steps, log={"tensorboard": False, "metrics": metrics})
            with periodic.build(run, None) as hooks:
                logging = [hook for hook in hooks if hook.name == "log"]
                began = time.perf_counter()
                worker.loop(run, logging)
                seconds = time.perf_counter() - began
            run.close()
        return steps / seconds

    return (lambda: speed(True)), (lambda: speed(False))


def _runs(folder: Path, quick: bool) -> Callable[..., Run]:
    """Prepare toy images; return what begins a new run of so many steps on them."""
    train = {"global_batch": BATCH, "learning_rate": 1e-3, "log_every": 1}
    tables = prepared(folder, 24 if quick else 120, {"name": "lora", "rank": 8}, train)
    numbers = itertools.count()

    def begin(steps: int, **changed: Any) -> Run:
        changes = {
            "train": {**train, "steps": steps},
            "output": str(folder / f"run-{next(numbers)}"),
            **changed,
        }
        return start(parse({**tables, **changes}), 0, 1)

    return begin


def _shapes(run: Run) -> list[tuple[int, ...]]:
    """Return the shape of each step's latents."""
    run.close()
    latents = run.dataset.manifest.columns["latents"].arrays["latents"]
    return [
        latents.shape_in(run.batch_sampler.at(step).bucket)[1:] for step in range(run.total_steps)
    ]


def _bare(shapes: list[tuple[int, ...]]) -> float:
    """Measure steps per second of plain PyTorch, one step for each shape of latents."""
    unet = UNet2DConditionModel.from_pretrained(SD15, subfolder="unet").eval()
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS))
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    text = torch.randn(BATCH, 32, unet.config.cross_attention_dim)
    moments = {shape: torch.randn(BATCH, 8, *shape) for shape in set(shapes)}
    schedule = DDPMScheduler.from_pretrained(SD15, subfolder="scheduler")
    began = time.perf_counter()
    for shape in shapes:
        mean, log_variance = moments[shape].chunk(2, dim=1)
        latents = (mean + torch.exp(0.5 * log_variance) * torch.randn(BATCH, 4, *shape)) * 0.18215
        noise = torch.randn(BATCH, 4, *shape)
        steps = torch.randint(0, 1000, (BATCH,))
        noisy = schedule.add_noise(latents, noise, steps)
        predicted = unet(noisy, steps, encoder_hidden_states=text, return_dict=False)[0]
        torch.nn.functional.mse_loss(predicted, noise).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return len(shapes) / (time.perf_counter() - began)


def prepared(
    folder: Path, images: int, method: dict[str, Any], train: dict[str, Any]
) -> dict[str, Any]:
    """Return the tables of a run on the toy model, its dataset made."""
    draw_folder(folder / "images", images, style="neon", seed=0)
    tables = {
        "output": str(folder / "run"),
        "model": {"path": str(SD15)},
        "method": method,
        "data": {
            "source": str(folder / "images"),
            "dataset": str(folder / "dataset"),
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48], [48, 80]]},
        },
        "train": train,
        "log": {"tensorboard": False},
    }
    from cluster.connect import connect

    with connect("local", num_cpus=2, object_store_mb=200, log_to_driver=False):
        prepare(parse(tables))
    return tables
