"""The most memory that this process has held so far."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import NamedTuple

STATUS = Path("/proc/self/status")
"""Where Linux says, as `VmHWM`, what a process held at most (proc_pid_status(5)). `getrusage`
would count what the process that started this one held then."""


class Peak(NamedTuple):
    """MiB."""

    host: float
    device: float
    """As PyTorch's allocator counts them on the GPU; 0 without one."""

    def __str__(self) -> str:
        device = f", GPU {self.device:.0f} MiB" if self.device else ""
        return f"peak {self.host:.0f} MiB{device}"


def peak() -> Peak:
    """Return what this process held at most."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for line in STATUS.read_text().splitlines() if STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            host = int(line.split()[1])
    device = 0
    if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_initialized():
        device = cuda.max_memory_allocated()
    return Peak(host / 2**10, device / 2**20)
