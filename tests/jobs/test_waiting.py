"""A stage on a cluster that is joined waits for room, and ends with a message where none comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import ray as ray_library

from raytrain.data.pipeline.executor import Need, on_ray
from raytrain.errors import UserError
from tests.soak._nodes import ROOT

GANG = Need("A training worker", 100, 0, 2, "train.workers, cpus_per_worker")
JOINED = """
import json
import sys
import ray
from raytrain.data.pipeline.executor import Need, on_ray
from raytrain.errors import UserError

ray.init(sys.argv[1], logging_level="ERROR")
said = []
on_ray().await_room(Need("A worker", 1, 0, 1, "key"), 1, said.append)
assert not said
try:
    on_ray().await_room(Need("A worker", 100, 0, 2, "key"), 0.01, print)
except UserError as error:
    print(error)
print(json.dumps([group["state"] for group in ray.util.placement_group_table().values()]))
"""


@pytest.mark.usefixtures("ray")
def test_a_ray_of_its_own_never_grows_and_refuses_at_once() -> None:
    with pytest.raises(UserError, match=r"asks for 100 CPUs and 0 GPUs .* It would wait forever"):
        on_ray().await_room(GANG, 30, print)


@pytest.mark.usefixtures("ray")
def test_a_joined_cluster_is_waited_for_and_nothing_stays_held() -> None:
    address = ray_library.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", JOINED, address], cwd=ROOT, env=os.environ | {"PYTHONPATH": "."},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    waiting, refused, groups = done.stdout.strip().splitlines()[-3:]
    assert waiting.startswith("Waiting up to 0.01 minutes for room: A worker asks for 100 CPUs")
    assert "2 of them must run at a time, but there is room for 0: 1 nodes" in refused
    assert "No more came within 0.01 minutes (cluster.wait_minutes)" in refused
    assert set(json.loads(groups)) == {"REMOVED"}
