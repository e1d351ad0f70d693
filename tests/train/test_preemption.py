"""A run whose node is about to be taken saves in time, and goes on elsewhere with no step done
twice."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain import checkpoint, storage
from raytrain.config import Config
from raytrain.config.file import to_toml
from raytrain.config.period import Every
from raytrain.train import launch, worker
from raytrain.train.hooks import periodic
from raytrain.train.hooks.preemption import Preemption
from raytrain.train.record import sample_log
from tests.bench.first_step import command_of
from tests.conftest import losses
from tests.soak._nodes import ROOT, local_nodes

TRAIN = {
    "steps": 8,
    "checkpoint_every": 1000,
    "optimizer": "tests.train.waits.Waits",
}


def test_a_notice_ends_a_run_after_its_step(
    run_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the third step, from Ray, in its words."""
    import ray.train
    from ray.train import PreemptionInfo

    config, whole = run_config(), run_config(name="whole")
    worker.train(whole)
    asked = 0

    def get_preemption_info() -> PreemptionInfo | None:
        nonlocal asked
        asked += 1
        deadline = round(1000 * time.time() + 30_000)
        return PreemptionInfo(deadline, {"0123456789": [0]}) if asked >= 3 else None

    monkeypatch.setattr(ray.train, "get_preemption_info", get_preemption_info)
    monkeypatch.setattr(periodic, "EVERY", Every(1))
    launch.work(config, rank=0, world_size=1, report=None, preemption=Preemption())
    failure = storage.read_json(storage.join(config.output, launch.FAILURE))
    assert failure["kind"] == launch.AGAIN
    assert failure["message"].startswith("Ray is about to lose node 01234567 within ")
    assert checkpoint.load(checkpoint.find(config.output) or "").step == 3
    storage.remove(storage.join(config.output, launch.FAILURE))
    asked = -100
    launch.work(config, rank=0, world_size=1, report=None, preemption=Preemption())
    assert losses(config) == losses(whole)


@pytest.mark.slow
def test_a_node_of_a_cluster_is_drained(run_config: Callable[..., Config], tmp_path: Path) -> None:
    whole = run_config(name="whole", train=TRAIN)
    worker.train(whole)
    with local_nodes() as nodes:
        config = run_config(train=TRAIN, cluster={"address": nodes.address})
        path, printed = tmp_path / "config.toml", tmp_path / "printed"
        path.write_text(to_toml(config))
        with printed.open("w") as stream:
            run = subprocess.Popen(command_of("train", path), cwd=ROOT, stdout=stream,
                                   stderr=subprocess.STDOUT)  # fmt: skip
        while not (node := nodes.node_of("RayTrainWorker")):
            assert run.poll() is None, printed.read_text()
            time.sleep(0.1)
        ray = str(Path(sys.executable).parent / "ray")
        drain = [ray, "drain-node", "--address", nodes.address, "--node-id", node,
                 "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
                 "--deadline-remaining-seconds", "600"]  # fmt: skip
        subprocess.run(drain, check=True, capture_output=True)
        assert run.wait() == 0, printed.read_text()
    said = printed.read_text()
    assert f"Ray is about to lose node {node[:8]} within " in said
    assert "saving after step 3" in said
    assert losses(config) == losses(whole)
    logged = sample_log.read(config.output, 8)
    assert logged is not None
    assert logged["step"].to_pylist() == [step for step in range(8) for _ in range(4)]
