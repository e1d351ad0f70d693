"""A node that is about to be taken away, as spot nodes are: Ray says so some seconds or minutes
before, the run saves, and its workers start anew on the nodes that stay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from raytrain.config.period import Every

if TYPE_CHECKING:
    from raytrain.train.run import Run

EVERY = Every(5 / 60, "minutes")
"""How often it is asked: the answer waits for all workers."""


class Preemption:
    """What Ray tells the workers of Ray Train of nodes that it will lose."""

    told = ""
    """What a run ends for."""

    def ask(self) -> str:
        """Return which nodes are about to be taken, empty where none is; a collective of Ray
        Train's workers."""
        import ray.train

        info = ray.train.get_preemption_info()
        if info is None:
            return ""
        nodes = ", ".join(node[:8] for node in sorted(info.preempted_node_to_ranks))
        within = ""
        if info.deadline_ms:
            within = f" within {max(0, round(info.deadline_ms / 1000 - time.time()))} s"
        return f"Ray is about to lose node {nodes}{within}"

    def look(self, run: Run) -> None:
        """Let a run save and end after this step where a node of it is about to be taken."""
        if told := self.ask():
            self.told, run.stopping = told, True
            if run.is_main:
                run.tell(f"{told}: saving after step {run.step}, to go on on other nodes.")
