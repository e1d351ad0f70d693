"""The numbers of a plan against those counted by hand and by a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jobs.plan import show
from raytrain import storage
from raytrain.config import Config
from raytrain.config.file import parse
from raytrain.data.loading.online import Online
from raytrain.data.loading.read import check_dataset
from raytrain.data.prepare import prepare
from raytrain.errors import UserError
from raytrain.model import build
from raytrain.plan import CPU_FLOPS, plan
from raytrain.sample import sample
from raytrain.train import encoders, worker
from raytrain.train.engines import memory
from raytrain.train.engines.memory import OVERHEAD
from raytrain.train.run import start
from raytrain.train.sizes import Encoders
from tests.conftest import losses, workers_here
from tests.data.conftest import draw

SQUARES, WIDE, REPEATS, BATCH, EPOCHS = 5, 2, 3, 4, 2


@pytest.fixture
def config(tmp_path: Path, world: Callable[[str], dict[str, object]]) -> Config:
    """A LoRA on five squares shown three times an epoch and two wide images."""
    for number in range(SQUARES):
        draw(tmp_path / "squares" / f"{number}.png", number, (64, 64), f"square {number}")
    for number in range(WIDE):
        draw(tmp_path / "wide" / f"{number}.png", 50 + number, (80, 48), f"wide {number}")
    made = parse({
        "output": str(tmp_path / "run"),
        "model": world("sd15")["model"],
        "method": {"name": "lora", "rank": 4},
        "data": {
            "subsets": [
                {"source": str(tmp_path / "squares"), "repeats": REPEATS},
                {"source": str(tmp_path / "wide")},
            ],
            "held_out": 0.0,
            "buckets": {"resolution": 64, "step": 16, "sizes": [[64, 64], [80, 48]]},
        },
        "train": {"epochs": EPOCHS, "global_batch": BATCH, "micro_batch": 1, "score_every": 99,
                  "cpus_per_worker": 2},
        "evaluate": {"scorers": ["held_out_loss"]},
        "log": {"tensorboard": False},
    })  # fmt: skip
    with workers_here():
        prepare(made)
    return made


def test_a_plans_numbers_are_those_of_the_run(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(config)
    assert {name: (count.train, count.held_out) for name, count in planned.buckets.items()} == {
        "64x64": (SQUARES, 0), "80x48": (WIDE, 0),
    }  # fmt: skip
    rows = SQUARES * REPEATS + WIDE
    worker.train(config)
    assert planned.steps == len(losses(config))
    assert planned.epochs == pytest.approx(planned.steps * BATCH / rows)
    assert EPOCHS <= planned.epochs < EPOCHS + 2 * BATCH / rows
    assert (planned.micro_batch, planned.accumulation) == (1, BATCH)

    model = build(config, torch.device("cpu"))
    learning = sum(weight.numel() for weight in model.learning().values())
    parameters = sum(weight.numel() for weight in model.parameters())
    assert (planned.parameters, planned.trainable_parameters) == (parameters, learning)
    # frozen fp32; weight, gradient and AdamW's two moments of what learns; one row's activations
    held = 4 * (parameters - learning) + 16 * learning + planned.row.activations
    assert f"needs about {OVERHEAD * held / 2**20:.0f} MiB" in planned.engine
    assert planned.seconds == planned.steps * planned.row.flops * BATCH / (2 * CPU_FLOPS)

    show(planned)
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[1]: line.split()[7] for line in lines if "x48" in line or "x64" in line}
    assert table == {"64x64": f"{SQUARES * REPEATS / BATCH:.1f}", "80x48": f"{WIDE / BATCH:.1f}"}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_without_a_cache_counts_the_encoders_that_stay(
    precision: str, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = config.values()
    tree["data"] |= {"cache": False, "dataset": str(tmp_path / "online"),
                     "encode": {"batch": 3, "precision": precision}}  # fmt: skip
    without = parse(tree)
    with workers_here():
        prepare(without)
    assert plan(config).encoders == Encoders()
    made = Online(without, check_dataset(without), "cpu")
    held = encoders.held({"vae": made._images.vae, **made._captions.parts})
    planned = plan(without)
    assert planned.encoders.weights == held
    pixels = np.zeros((64, 64, 3), np.uint8)  # of the largest bucket
    with encoders.Alive(made._images.vae) as alive:
        made._images.encode([pixels] * 3)
    # the pixels themselves, before they have the VAE's precision, are not followed on `meta`
    most = alive.most - planned.encoders.work
    assert 0 <= most <= 3 * pixels.size * (1 + 4 + 4)
    more = planned.memory - plan(config).memory
    assert more == pytest.approx(OVERHEAD * (held + planned.encoders.work), abs=2)
    show(planned)
    assert f"encoders  {held / 2**20:.1f} MiB of them stay" in capsys.readouterr().out
    choice = start(without, 0, 1)
    choice.close()
    assert choice.choice.planned == memory.estimate(
        without, "plain", "none",
        memory.Sizes(planned.parameters, planned.trainable_parameters,
                     4 * (planned.parameters - planned.trainable_parameters), None,
                     planned.encoders.bytes), 1, 1,
    )  # fmt: skip


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_memory_is_what_is_alive_at_a_time(device: str) -> None:
    layers = nn.Sequential(nn.Linear(100, 1000), nn.Linear(1000, 10), nn.Linear(10, 500))
    with encoders.Alive(layers.to(device)) as alive, torch.no_grad():
        made = layers(torch.empty(8, 100, device=device))
    assert alive.most == 4 * 8 * (100 + 1000 + 10)
    assert made.shape == (8, 500)


def test_a_sample_is_of_the_snapshot_that_the_config_names(config: Config, tmp_path: Path) -> None:
    manifest = storage.join(config.dataset, "manifest.json")
    storage.write_json(manifest, {**storage.read_json(manifest), "complete": False})
    quick = config.sample.model_copy(update={"steps": 1, "max_prompts": 1})
    asked = config.model_copy(update={"sample": quick})
    with pytest.raises(UserError, match=r"data\.partial"):
        sample(asked, "base", str(tmp_path / "drawn"))
    allowed = asked.model_copy(update={"data": asked.data.model_copy(update={"partial": True})})
    assert Path(sample(allowed, "base", str(tmp_path / "drawn"))).is_file()
