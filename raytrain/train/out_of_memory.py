"""When a step does not fit the memory: the same pictures, fewer at a time."""

from __future__ import annotations

import torch

from raytrain import storage

FILE = "micro_batch.json"


SIGNS = ("out of memory", "can't allocate memory", "could not create a primitive", "could not create a memory object")
"""What CUDA, PyTorch's CPU allocator and oneDNN say (measured under a limit of the address space)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error of a step says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "out of memory")
    )


def limit(output: str) -> int | None:
    """Return the largest micro-batch known to fit; None where none was found too large."""
    path = storage.join(output, FILE)
    return int(storage.read_json(path)["micro_batch"]) if storage.exists(path) else None


def remember(output: str, micro_batch: int) -> None:
    """Write down a micro-batch for the workers that start next."""
    storage.write_json(storage.join(output, FILE), {"micro_batch": micro_batch})


def forget(output: str) -> None:
    """Forget it, as a new launch does: it may have other devices."""
    storage.remove(storage.join(output, FILE))
