"""Every stage on a cluster whose nodes share no disk: `make cluster-test`.

The head has no torch, so a driver that imports it fails; a node sees no file that another wrote,
so all that is passed on lies in the object store.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest

from raytrain import storage
from tests.three_nodes.conftest import BIN, IMAGES, World

pytestmark = [
    pytest.mark.nodes,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.getuid() != 0 or shutil.which("unshare") is None,
        reason="namespaces of a node's own need root and unshare",
    ),
]
CANNY = {"controls": {"kind": "canny"}}


def test_every_stage_runs_without_a_shared_disk(world: World) -> None:
    lora = world.config("lora", tune=tune(world))
    assert f"{IMAGES} rows ready" in world.submit("prepare", lora)
    assert "step 8/8" in world.submit("train", lora)
    evaluated = world.submit("evaluate", lora)
    assert "Text alignment" in evaluated
    assert evaluated.count("Images by each of 2 workers (sample.workers): ") == 2
    assert "grid.png" in world.submit("sample", lora)
    assert "lora.safetensors" in world.submit("export", lora)
    assert "8/8 done" in world.submit("tune", lora)
    for name in (
        "report.html", "metrics.jsonl", "images/grid.png", "export/lora.safetensors",
        "tune/leaderboard.json", "tune/study.db", "tune/winner.toml", "train.json",
    ):  # fmt: skip
        assert f"lora/{name}" in world.objects("lora"), name
    rows = storage.read_json(world.uri("lora", "tune", "leaderboard.json"))
    assert sorted(row["number"] for row in rows) == list(range(8))
    assert {row["state"] for row in rows} <= {"completed", "stopped"}


def test_a_controlnet_by_plain_ray_job_submit(world: World) -> None:
    control = world.config(
        "control", method={"name": "controlnet"}, train={"steps": 2},
        data={"dataset": world.uri("controls"), **CANNY},
    )  # fmt: skip
    for stage in ("prepare", "train", "sample"):
        package = f"--working-dir={world.folder}"
        module = [sys.executable, "-m", f"jobs.{stage}", control]
        world.run([str(BIN / "ray"), "job", "submit", package, "--", *module])
    assert "control/images/grid.png" in world.objects("control")


def test_the_dataset_is_browsed_from_anywhere(world: World) -> None:
    config = world.config("lora")
    world.submit("prepare", config)
    world.client.put_object(Bucket="bucket", Key="images/000.txt", Body=b"another caption")
    world.submit("prepare", config)

    def data(*words: str) -> str:
        return world.run([str(BIN / "raytrain"), "data", *words])

    assert "2 *" in data("ls", config)
    assert "Nothing was left out" in data("show", config)
    assert "000.png" in data("diff", config, "1", "2")
    data("preview", config)
    assert "dataset/preview.html" in world.objects("dataset")


def test_a_local_output_is_refused(world: World) -> None:
    config = world.config("lora")
    command = [str(BIN / "raytrain"), "submit", "train", config, "--set", "output=runs/here"]
    with pytest.raises(AssertionError, match="On a cluster of several nodes output must be"):
        world.run(command)


def tune(world: World) -> dict[str, object]:
    return {
        "trials": 8, "concurrent": 2, "evaluations": 2, "objective": {"held_out_loss": -1.0},
        "space": {"train.learning_rate": {"log": [1e-4, 1e-2]}},
    }  # fmt: skip
