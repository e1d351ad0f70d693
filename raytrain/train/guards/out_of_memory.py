"""When a step does not fit the memory: the same images, fewer at a time."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from raytrain import storage
from raytrain.config import Config

FILE = "micro_batch.json"
SIGNS = (
    "out of memory", "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory", "could not create a primitive", "could not create a memory object",
)  # fmt: skip
"""What CUDA, and on a CPU PyTorch's allocator and oneDNN say
(the latter measured under a limit of the address space)."""
REMEDY = (
    "Set train.gradient_checkpointing, a smaller data.buckets.resolution, a higher train.engine "
    "or train.offload, or use a larger device."
)
KILLS = Path("/proc/vmstat")
"""Where Linux counts, as `oom_kill`, the processes it ended because memory ran out
(proc_vmstat(5))."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of a step says that memory ran out, on a GPU or on the CPU."""
    import torch  # here, as the command that waits for a worker has no use for it

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def kernel_kills() -> int:
    """Return how many processes this machine's kernel has ended because memory ran out;
    0 where it does not say."""
    with suppress(OSError):
        counts = dict(line.split() for line in KILLS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    return 0


def micro_batch(config: Config, world_size: int) -> int:
    """Return how many images a worker takes at a time: what the config asks for,
    or fewer where that did not fit."""
    slots, path = -(-config.train.global_batch // world_size), storage.join(config.output, FILE)
    fits = storage.read_json(path)["micro_batch"] if storage.exists(path) else slots
    return min(config.train.micro_batch or slots, int(fits), slots)


def remember(output: str, micro_batch: int) -> None:
    """Write down a micro-batch for the workers that start next."""
    storage.write_json(storage.join(output, FILE), {"micro_batch": micro_batch})


def forget(output: str) -> None:
    """Forget it, as a new launch does: it may have other devices."""
    storage.remove(storage.join(output, FILE))
