"""The process group of Ray Train's workers, set up by processes that need no torch.

Ray's own TorchConfig imports torch in the command and in Ray Train's controller, which run on a
head that is to start, follow and report alone. Here only the workers import it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig


@dataclass
class ProcessGroup(BackendConfig):  # type: ignore[misc]
    """Settings of `torch.distributed.init_process_group`: `nccl` or `gloo`, and the seconds that
    one operation may take."""

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type[_Group]:
        """What sets it up."""
        return _Group


class _Group(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Connect the workers: they meet at the first one's address."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        settings = (backend_config.backend, backend_config.timeout_s, address, port)
        ray.get(
            [
                worker_group.execute_single_async(rank, _join, *settings)
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        """Take the workers apart; those that do not answer are ended in any case."""
        ray.wait(parts := worker_group.execute_async(_leave), num_returns=len(parts), timeout=5)


def _join(backend: str, timeout_s: int, address: str, port: int) -> None:
    """Join the group, as `torchrun` would have it: by the variables of the environment."""
    from torch import cuda, distributed

    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "NODE_RANK": str(context.get_node_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
    }
    if backend == "nccl":  # every worker sees all GPUs of its node, of which one is its own
        seen = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
        cuda.set_device(seen.index(str(ray.get_gpu_ids()[0])))
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
