"""A trial on several workers: Ray Train inside Ray Tune.

Ray Train's controller is a separate process, so evaluations travel to the trial through the
trial's queue. Each carries the run's placement group: Ray leaves the group of a trial that is
stopped early in place, and with it all its CPUs and GPUs (Ray 2.60, measured), so
stopping the trial removes it.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import ReportCallback, WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

from raytrain.config import Config
from tuning.trial import Reporter

GROUP = "placement_group"


class Forward(ReportCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Ray Train's callback, run by its controller: sends the first worker's evaluations to the
    trial."""

    def __init__(self, report: Reporter) -> None:
        from ray.train._internal.session import get_session

        self._queue = get_session()._get_or_create_inter_actor_queue()
        self._group = ""
        self._report = report.through(self._put)

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Note the placement group of the workers."""
        handle = worker_group.get_worker_group_state().placement_group_handle
        self._group = handle.placement_group.id.hex()

    def after_report(self, training_report: Any, metrics: list[dict[str, Any]]) -> None:
        """Send one evaluation."""
        self._report(metrics[0])

    def _put(self, result: dict[str, Any]) -> None:
        self._queue.put({**result, GROUP: self._group})


def train_on_workers(config: Config, report: Reporter) -> None:
    """Train on `train.workers` separate workers, from inside a trial."""
    from raytrain.train.launch import launch

    launch(config, callbacks=[Forward(report)])


def release(result: dict[str, Any]) -> None:
    """Free what the workers of an ended trial held; `result` is the last the trial reported."""
    if group := result.get(GROUP):
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(group)))
