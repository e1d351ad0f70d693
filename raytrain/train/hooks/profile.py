"""A trace of some steps by PyTorch's profiler: where the time of a step goes.

<output>/profile/trace.json       a timeline for chrome://tracing or https://ui.perfetto.dev
                 operators.txt    the operators that took most time, and the memory they allocated
"""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from raytrain import storage
from raytrain.config.period import Every
from raytrain.train.hooks.periodic import Hook
from raytrain.train.run import Run

FOLDER = "profile"
WARM_UP = 3
"""Steps of a launch before the recording starts: caches fill, kernels are chosen and compiled."""
ROWS = 40
"""Operators in the table."""


def hooks(run: Run) -> list[Hook]:
    """Return the hook that records, on the first worker where the config asks for it;
    to be called before the first step."""
    return (
        [Hook("profile", Profile(run), Every(1))]
        if run.config.train.profile and run.is_main
        else []
    )


class Profile:
    """Records `train.profile` steps of a launch, or as many as are left;
    called after every step."""

    def __init__(self, run: Run) -> None:
        steps, left = run.config.train.profile, run.total_steps - run.step
        self._first = run.step + min(WARM_UP, max(0, left - steps))
        self._last = min(self._first + steps, run.total_steps)
        activities = [
            ProfilerActivity.CPU,
            *([ProfilerActivity.CUDA] if run.device.type == "cuda" else []),
        ]
        self._profile = profile(activities=activities, profile_memory=True)
        self._begin(run)

    def __call__(self, run: Run) -> None:
        """Start recording, or stop and write the record."""
        if run.step == self._last or (run.stopping and self._first <= run.step < self._last):
            self._profile.stop()
            write(self._profile, storage.join(run.config.output, FOLDER), run.device)
        else:
            self._begin(run)

    def _begin(self, run: Run) -> None:
        if run.step == self._first:
            self._profile.start()


def write(recorded: profile, folder: str, device: torch.device) -> None:
    """Write a record's timeline and table, each whole or not at all."""
    with storage.atomic(storage.join(folder, "trace.json")) as temporary:
        recorded.export_chrome_trace(temporary)
    order = f"self_{'device' if device.type == 'cuda' else 'cpu'}_time_total"
    table = recorded.key_averages().table(sort_by=order, row_limit=ROWS)
    storage.write_bytes(storage.join(folder, "operators.txt"), table.encode())
