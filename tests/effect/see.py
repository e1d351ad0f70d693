"""What a config does, looked at in one process: each function returns values that two configs
with the same behavior have in common."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from raytrain import checkpoint, held_out, storage
from raytrain.batch import Batch
from raytrain.config import Config
from raytrain.data.loading.loader import Captions, Loader
from raytrain.data.loading.read import Dataset
from raytrain.data.pipeline import plan_encoding
from raytrain.data.prepare import Preparation, prepare
from raytrain.data.store.fingerprint import Fingerprint
from raytrain.errors import UserError
from raytrain.log import read_metrics
from raytrain.model import build
from raytrain.show import SILENT
from raytrain.train.order import batch_sampler_of
from tests.conftest import Here
from tests.data.contents import contents
from tests.effect.world import World

Look = Callable[[World, Config], Any]
STORED = {"data.dataset": "{root}/stored"}
TIMES = ("seconds", "checkpoint_seconds", "checkpoint_mb", "images_per_second", "data_stall_ratio")


class Pools(Here):
    """Executor in this process that keeps what it was asked to start."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def stream(self, jobs: Any, worker: Any, settings: Any, pool: Any, memory: float = 0.0) -> Any:
        if pool is not None:
            self.asked.append((pool.workers, pool.max_workers, pool.cpus_per_worker,
                               pool.gpus_per_worker))  # fmt: skip
        return super().stream(jobs, worker, settings, pool)

    def await_room(self, *asked: object) -> None:
        self.asked.append(asked[0])


def dataset(world: World, config: Config) -> Any:
    """What preparing gives: every row with its arrays, what was left out, what is told."""
    report = prepare(config, Here())
    told = (report.kept, report.found, report.rules, report.rejected, report.uncaptioned,
            sorted(report.annotated))  # fmt: skip
    notes = [note for note in report.notes if not note.startswith("the earlier dataset")]
    return contents(config), told, notes


def rows(world: World, config: Config) -> Any:
    """The rows a preparation plans, what each array is made of, what is left out."""
    with SILENT.stages() as stage:
        done = Preparation(config, Fingerprint.of(config), stage, Here(), rehearsed=False)
        items = done._list()
        done._scan(items)
        done._plan_rows(done._annotate(done._filter(items)))
    found = {}
    for name in ("rows", "arrays", "rejected"):
        files = sorted(Path(done.work, name).rglob("*"))
        tables = [pq.read_table(file, partitioning=None) for file in files if file.is_file()]
        lines = [line for table in tables for line in table.to_pylist()]
        found[name] = [{k: v for k, v in line.items() if "key" not in k} for line in lines]
    storage.remove(done.work)
    return found, sorted(done.annotated)


def layout(world: World, config: Config) -> Any:
    """How preparing from nothing cuts its files, and what workers it asks for."""
    tree = config.model_copy(update={"data": config.data.model_copy(
        update={"dataset": world.fresh()})})  # fmt: skip
    encoded: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sd15(), "encode_image", _counted(_sd15().encode_image, encoded))
        patch.setattr(plan_encoding, "_row_bytes", lambda *_: 2**20)  # as real ones have
        prepare(tree, executor := Pools())
    files = [
        file for name in ("latents", "text") for file in Path(tree.dataset, name).rglob("*.p*")
    ]
    groups = [pq.ParquetFile(file) for file in files]
    numbers = [[g.metadata.row_group(i).num_rows for i in range(g.num_row_groups)] for g in groups]
    return sorted(encoded), executor.asked, sorted(numbers)


def _sd15() -> Any:
    from raytrain.families import sd15

    return sd15


def _counted(function: Any, counts: list[int]) -> Any:
    def call(vae: Any, pixels: Any) -> Any:
        counts.append(len(pixels))
        return function(vae, pixels)

    return call


def draws(world: World, config: Config) -> Any:
    """The first steps' rows, columns, weights and draws."""
    data, model = Dataset.of(config), build(config, torch.device("cpu"))
    sampler = batch_sampler_of(config, data.counts())
    loader = Loader(data, sampler, captions=Captions.of(config, sampler.total_steps),
                    columns=model.columns)  # fmt: skip
    found = []
    for number in range(min(4, sampler.total_steps)):
        step = loader.step(number)
        found.append((step.bucket, step.epoch, step.batch.ids, _plain(step.batch.weights),
                      _all(step.batch.columns), _all(model.draw(step.batch))))  # fmt: skip
    return sampler.total_steps, found


def model(world: World, config: Config) -> Any:
    """What learns, and the loss of a batch once nothing of it is zero."""
    built = build(config, torch.device("cpu"))
    start = {name: (tuple(w.shape), _plain(w)) for name, w in built.learning().items()}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in built.learning().values():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    batch = _batch(config, built)
    with torch.no_grad():
        losses = built(batch, built.draw(batch))
    return start, built.method.groups(config.method), _plain(losses)


def steps(world: World, config: Config) -> Any:
    """A short run: numbers of every step, checkpoints, files, lines for the user."""
    from raytrain.train.worker import train

    output = world.fresh()
    config = config.model_copy(update={"output": output})
    train(config)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_metrics(output)]
    files = sorted(re.sub(r"\d{20}-|events.*", "", str(file.relative_to(output)))
                   for file in Path(output).rglob("*")
                   if not {"notices", "wandb"} & set(file.parts))  # fmt: skip
    folder = checkpoint.listing(output)[-1]
    tensors = {name: _plain(value) for kind in ("weights", "optimizer")
               for name, value in checkpoint._load_tensors(folder, kind).items()}  # fmt: skip
    shown = [file.stat().st_size for file in Path(output).rglob("events*")]
    return [row for row in rows if len(row) > 1], tensors, files, shown, _notices(output)


def _notices(output: str) -> list[str]:
    from raytrain.train.record import notices

    folder = Path(output, notices.FOLDER)
    return [file.read_text().replace(output, "") for file in sorted(folder.iterdir())]


def images(world: World, config: Config) -> Any:
    """Images of the base model, how many are drawn at a time, and what is told."""
    from raytrain.sample import sample
    from raytrain.sampling import generate

    drawn: list[Any] = []
    told: list[str] = []
    original = generate._draw

    def record(pipeline: Any, prompts: Any, inputs: Any) -> Any:
        made = original(pipeline, prompts, inputs)
        shown = [each.inputs["control"].tobytes() for each in prompts if each.inputs]
        drawn.append(shown + [(each.size, each.tobytes()) for each in made])
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "_draw", record)
        sample(config, "base", world.fresh(), told.append)
    return drawn, told


def scores(world: World, config: Config) -> Any:
    """Scores, with their intervals, of three fixed images."""
    from raytrain.evaluate.run import measure, summaries
    from raytrain.evaluate.subject import Judges, Subject

    noise = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    made = [Image.fromarray(each) for each in noise]
    built, data = build(config, torch.device("cpu")), Dataset.of(config)
    losses = held_out.losses(built, data, config.evaluate)
    texts = ["a red star", "a red star", "a ring", "a ring"]
    values = measure(Subject(config, made, texts, Judges(config, "cpu"), lambda: losses))
    return values, {name: each.values() for name, each in summaries(config, values).items()}


def exported(world: World, config: Config) -> Any:
    """The files of an export."""
    from raytrain.export.run import export

    folder = Path(config.output, "export")
    shutil.rmtree(folder, ignore_errors=True)
    export(config)
    return {str(file.relative_to(folder)): _tensors(str(file))
            for file in sorted(folder.rglob("*")) if file.suffix == ".safetensors"}  # fmt: skip


def _tensors(file: str) -> Any:
    from safetensors.torch import load_file

    return {name: (value.dtype, _plain(value)) for name, value in load_file(file).items()}


def _batch(config: Config, built: Any) -> Batch:
    data = Dataset.of(config)
    sampler = batch_sampler_of(config, data.counts())
    batch: Batch = Loader(data, sampler, columns=built.columns).step(0).batch
    return batch


def _plain(tensor: Any) -> Any:
    array = torch.as_tensor(tensor).detach().float().cpu().numpy()
    return tuple(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _all(columns: Any) -> dict[str, Any]:
    return {name: _plain(columns[name]) for name in columns}


def look(world: World, see: Look, config: Config) -> Any:
    """Return what is seen, once for equal configs; a user's mistake is what it says."""
    key = f"{see.__name__} {config.model_dump_json()}"
    if key not in world.seen:
        try:
            world.seen[key] = see(world, config)
        except UserError as error:
            world.seen[key] = f"error: {error}"
    return world.seen[key]
