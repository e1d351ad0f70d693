"""What a config makes this project hand to others, whose work is not done here: Ray, Ray Tune,
the hub, the web, sinks, a GPU."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raytrain import pretrained
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.data.prepare import prepare
from tests.conftest import Here
from tests.effect.see import steps
from tests.effect.world import World


def prepared_where(world: World, config: Config) -> Any:
    """Where a preparation writes."""
    prepare(config, Here())
    return {place for place in ("dataset", "apart") if (world.root / place).exists()}


def trained_where(world: World, config: Config) -> Any:
    """Where a run writes."""
    from raytrain.train.worker import train

    shutil.rmtree(config.output, ignore_errors=True)
    train(config)
    return [place for place in ("run", "elsewhere")
            if (world.root / place / "train.json").exists()]  # fmt: skip


def prepare_command(world: World, config: Config) -> Any:
    """The exit code of `raytrain prepare`."""
    import jobs.prepare

    path = Path(world.fresh()).with_suffix(".toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_toml(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.prepare, "workers", lambda *_: contextlib.nullcontext(Here()))
        return jobs.prepare.command(path)


def fetching(world: World, config: Config) -> Any:
    """How often a web address is asked that gives no answer, and how long each may take."""
    from urllib3.exceptions import HTTPError

    from raytrain.data.files import web

    asked = []

    def request(*_: Any, timeout: Any, **__: Any) -> Any:
        asked.append(timeout.connect_timeout)
        raise HTTPError("no answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "time", SimpleNamespace(sleep=lambda _: None, monotonic=lambda: 0.0))
        reader = web.Web(config.data.fetch)
        patch.setattr(reader._connections, "request", request)
        with contextlib.suppress(OSError):
            reader.read("http://127.0.0.1/a.png")
    return asked


def from_hub(world: World, config: Config) -> Any:
    """The folder that a hub id's revision is, in a cache of two of them."""
    from huggingface_hub import constants

    cache = world.root / "hub" / "models--some--model"
    for number, name in enumerate(("main", "second")):
        commit = f"{number}" * 40
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / name).write_text(commit)
        (cache / "snapshots" / commit / "unet").mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(world.root / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        pretrained.resolve.cache_clear()
        return [str(pretrained.folder(config.model))]


def kernels(world: World, config: Config) -> Any:
    """Whether a GPU is asked for kernels that give the same bits every time."""
    from raytrain.train.engines import speed

    with speed.deterministic(config.train, torch.device("cuda")):
        return torch.are_deterministic_algorithms_enabled()


def started(world: World, config: Config) -> Any:
    """A run before its first step: engine, types, memory order, compiled and recomputed blocks."""
    from raytrain.train import run as runs

    config = config.model_copy(update={"output": world.fresh()})
    run = runs.start(config, 0, 1)
    try:
        assert run.watchdog is not None
        denoiser = run.model.denoiser
        return (
            type(run.engine).__name__, run.choice[:2], run.micro_batch, run.watchdog._seconds,
            run.choice.reason, [weight.stride() for weight in denoiser.parameters()],
            sum(block._compiled_call_impl is not None for block in denoiser.modules()),
            sum(bool(getattr(block, "gradient_checkpointing", False))
                for block in denoiser.modules()),
        )  # fmt: skip
    finally:
        run.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def planned(world: World, config: Config) -> Any:
    """The engine and what it keeps on the host."""
    from raytrain.train.engines import memory

    return memory.choose(config, memory.Sizes(1000, 1000, 0.0, 1000), 1, 1,
                         memory.device_memory(config.train, 1))[:2]  # fmt: skip


def launched(world: World, config: Config) -> Any:
    """What Ray Train is asked for, and whether Ray is needed at all."""
    from ray.train.v2.api import data_parallel_trainer

    from raytrain.train import launch, local_worker

    asked: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        took = data_parallel_trainer, "DataParallelTrainer"
        patch.setattr(*took, lambda _, **given: asked.update(given))
        patch.setattr(launch, "_absolute", lambda given: given)
        launch._trainer(config, None, [], Here())
    asked.pop("train_loop_config")
    run = asked.pop("run_config")
    return local_worker.needs_ray(config), str(asked), str(run.failure_config)


def drawn(world: World, config: Config) -> Any:
    """What a command that draws asks for, and whether Ray is needed for it."""
    import jobs

    asked: list[Any] = []

    class Asked(Here):
        def await_room(self, need: Any, *_: Any) -> None:
            asked.append(need)

        def compute(self, function: str, cpus: float, gpus: float, *_: Any, **given: Any) -> None:
            asked.append((cpus, gpus))

    def workers(_: Config, needs_ray: bool) -> Any:
        asked.append(needs_ray)
        return contextlib.nullcontext(Asked())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "workers", workers)
        jobs.compute(config, "raytrain.sample:sample", draws=True)
    return asked


def beside(world: World, config: Config) -> Any:
    """What the actor of asynchronous validation asks Ray for."""
    import ray

    from raytrain.train.hooks import async_validation

    asked: list[Any] = []

    class Asked(Exception):  # noqa: N818
        pass

    def remote(_: Any) -> Any:
        def options(**given: Any) -> Any:
            asked.append(given)
            raise Asked

        return SimpleNamespace(options=options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray, "remote", remote)
        run = SimpleNamespace(config=config)
        with contextlib.suppress(Asked):
            async_validation.AsyncValidation._start(SimpleNamespace(_run=run))  # type: ignore[arg-type]
    return asked


def connection(world: World, config: Config) -> Any:
    """What a command asks of Ray."""
    from cluster import connect
    from jobs import connected

    asked: list[Any] = []

    @contextlib.contextmanager
    def recorded(*place: Any, **given: Any) -> Any:
        asked.append((place, given))
        yield SimpleNamespace(private=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "connect", recorded)
        with connected(config):
            pass
    return asked


@dataclass(eq=False)
class Trial:
    """What a stopping rule looks at."""

    trial_id: str
    config: dict[str, Any] = field(default_factory=dict)


def searched(world: World, config: Config) -> Any:
    """What a sweep asks of Ray Tune, its first proposals, a trial's settings, and what becomes of
    trials whose scores are known."""
    from ray import tune

    from tests.tuning import fake
    from tuning import home, objective, sweep, trial

    config = config.model_copy(update={"output": world.fresh()})
    asked: list[Any] = []

    class Tuner:
        def __init__(self, _: Any, tune_config: Any, **given: Any) -> None:
            self.asked = tune_config

        def fit(self) -> None:
            search, rule = self.asked.search_alg, self.asked.scheduler
            proposed = [search.suggest(str(number)) for number in range(4)]
            asked.append((self.asked.num_samples, self.asked.max_concurrent_trials, proposed))
            for number in range(8):  # each worse than the one before
                one = Trial(str(number))
                rule.on_trial_add(None, one)
                for evaluation in range(1, 4):
                    result = {"objective": -float(number), "evaluation": evaluation}
                    asked.append(rule.on_trial_result(None, one, result))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "Tuner", Tuner)
        patch.setattr(home, "url", lambda _: "sqlite://")
        with contextlib.suppress(KeyboardInterrupt):
            sweep.sweep(config, fake.train)
    settings = trial.trial_config(config, {}, 0)
    worth = objective.value({"held_out_loss": 0.5, "clip_text": 0.2}, config.tune.objective)
    return asked, settings.train.score_every, worth


def kept(world: World, config: Config) -> Any:
    """Where a sweep's study is."""
    from tuning import home, study

    config = config.model_copy(update={"output": world.fresh()})
    with home.opened(config) as found:
        study.open_study(config, found)
    return sorted(file.name for file in Path(home.folder(config)).iterdir())


def sinks(world: World, config: Config) -> Any:
    """What wandb is told of a run."""
    import wandb

    told: list[Any] = []

    def init(**given: Any) -> Any:
        told.append((given["project"], given["mode"]))
        return SimpleNamespace(define_metric=lambda *_, **__: None, log=lambda _: None,
                               finish=lambda: None)  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", init)
        steps(world, config)
    return told


def exported(world: World, config: Config) -> Any:
    """What Ray is told of a run for Prometheus, in a process that is in a Ray."""
    from raytrain import telemetry

    told: list[Any] = []

    def metric(name: str, help: str, labels: tuple[str, ...]) -> Any:
        return SimpleNamespace(set=lambda value, tags: told.append((name, sorted(tags))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(telemetry, "in_ray", lambda: True)
        patch.setattr("ray.util.metrics.Gauge", metric)
        steps(world, config)
    return told
